//! The arithmetic of a rollout: given the ReplicaSets as they are, which sizes come next. No IO.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What a plan needs to know of one ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `status.availableReplicas`.
    pub available: i32,
    /// The annotation `deployment.kubernetes.io/max-replicas`: replicas plus surge when it was last scaled.
    pub max_replicas: Option<i32>,
}

/// How far a rollout may stray from the wanted number of Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub replicas: i32,
    pub surge: i32,
    pub unavailable: i32,
}

/// A new size for the ReplicaSet of that name.
pub type Resize = (String, i32);

/// A number of Pods or a percentage of `total`; `None` if it is neither.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> Option<i32> {
    match value {
        None => Some(0),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent.checked_mul(i64::from(total))?;
            let rounded = if round_up {
                product.checked_add(99)? / 100
            } else {
                product / 100
            };
            i32::try_from(rounded).ok()
        }
    }
}

impl Bounds {
    /// For a rolling update. When both limits come to nothing one Pod may be missing, else it could never move.
    pub fn rolling(
        replicas: i32,
        surge: Option<&IntOrString>,
        unavailable: Option<&IntOrString>,
    ) -> Bounds {
        let surge = scaled(surge, replicas, true).unwrap_or(0).max(0);
        let mut unavailable = scaled(unavailable, replicas, false).unwrap_or(0).max(0);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Bounds {
            replicas,
            surge,
            unavailable: unavailable.min(replicas),
        }
    }

    /// For strategy Recreate.
    pub fn recreate(replicas: i32) -> Bounds {
        Bounds {
            replicas,
            surge: 0,
            unavailable: 0,
        }
    }

    fn min_available(self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// Size that the new ReplicaSet may have now, `current` being its size and `all` the size of all together.
pub fn new_size(bounds: Bounds, current: i32, all: i32) -> i32 {
    if current > bounds.replicas {
        return bounds.replicas;
    }
    let room = bounds
        .replicas
        .saturating_add(bounds.surge)
        .saturating_sub(all);
    if room <= 0 {
        return current;
    }
    current + room.min(bounds.replicas - current)
}

/// Which old ReplicaSets (oldest first) shrink now: first Pods that are not available anyway, then as
/// many available ones as the limit allows.
pub fn shrink_old(bounds: Bounds, new: Option<&Set>, old: &[Set]) -> Vec<Resize> {
    let mut old = old.to_vec();
    let old_count: i32 = old.iter().map(|set| set.replicas).sum();
    if old_count == 0 {
        return Vec::new();
    }
    let new_replicas = new.map_or(0, |set| set.replicas);
    let new_available = new.map_or(0, |set| set.available);
    let most = old_count + new_replicas - bounds.min_available() - (new_replicas - new_available);
    if most <= 0 {
        return Vec::new();
    }
    let before = old.clone();
    let mut gone = 0;
    for set in &mut old {
        let unhealthy = (set.replicas - set.available).max(0);
        let less = unhealthy.min(most - gone).max(0);
        set.replicas -= less;
        gone += less;
    }
    let available: i32 = old.iter().map(|set| set.available).sum::<i32>() + new_available;
    let mut spare = (available - bounds.min_available()).max(0);
    for set in &mut old {
        let less = spare.min(set.replicas);
        set.replicas -= less;
        spare -= less;
    }
    changes(&before, &old)
}

/// Sizes after the Deployment itself was scaled in the middle of a rollout: each ReplicaSet in proportion.
/// `sets` are those with Pods, the ones that should lose or gain first in front.
pub fn proportional(bounds: Bounds, sets: &[Set]) -> Vec<Resize> {
    let all: i32 = sets.iter().map(|set| set.replicas).sum();
    let allowed = if bounds.replicas > 0 {
        bounds.replicas + bounds.surge
    } else {
        0
    };
    let to_add = allowed - all;
    let mut after = sets.to_vec();
    let mut added = 0;
    if to_add != 0 {
        for set in &mut after {
            let share = fraction(bounds, set);
            let rest = to_add - added;
            let step = if to_add > 0 {
                share.clamp(0, rest.max(0))
            } else {
                share.clamp(rest.min(0), 0)
            };
            set.replicas += step;
            added += step;
        }
        if let Some(first) = after.first_mut() {
            first.replicas = (first.replicas + to_add - added).max(0);
        }
    }
    changes(sets, &after)
}

fn fraction(bounds: Bounds, set: &Set) -> i32 {
    if bounds.replicas == 0 {
        return -set.replicas;
    }
    let before = i64::from(set.max_replicas.unwrap_or(bounds.replicas).max(1));
    let product = i64::from(set.replicas) * i64::from(bounds.replicas + bounds.surge);
    let size = (product * 2 + before) / (before * 2);
    i32::try_from(size).unwrap_or(i32::MAX) - set.replicas
}

fn changes(before: &[Set], after: &[Set]) -> Vec<Resize> {
    before
        .iter()
        .zip(after)
        .filter(|(old, new)| old.replicas != new.replicas)
        .map(|(_, new)| (new.name.clone(), new.replicas))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(name: &str, replicas: i32, available: i32) -> Set {
        Set {
            name: name.to_owned(),
            replicas,
            available,
            max_replicas: None,
        }
    }

    fn bounds(replicas: i32, surge: i32, unavailable: i32) -> Bounds {
        Bounds {
            replicas,
            surge,
            unavailable,
        }
    }

    #[test]
    fn percentages_round_apart() {
        let quarter = IntOrString::String("25%".to_owned());
        let table = [(1, 1, 0), (3, 1, 0), (4, 1, 1), (10, 3, 2)];
        for (replicas, surge, unavailable) in table {
            assert_eq!(
                Bounds::rolling(replicas, Some(&quarter), Some(&quarter)),
                bounds(replicas, surge, unavailable)
            );
        }
        let none = IntOrString::Int(0);
        assert_eq!(
            Bounds::rolling(5, Some(&none), Some(&none)),
            bounds(5, 0, 1)
        );
    }

    #[test]
    fn the_new_set_grows_into_the_room_there_is() {
        let table = [
            // bounds, current size, size of all, expected
            (bounds(1, 1, 0), 0, 1, 1),
            (bounds(3, 1, 0), 0, 3, 1),
            (bounds(3, 1, 0), 1, 4, 1),
            (bounds(3, 1, 0), 1, 3, 2),
            (bounds(3, 1, 0), 5, 5, 3),
            (bounds(3, 0, 1), 0, 3, 0),
            (bounds(3, 0, 1), 0, 2, 1),
            (bounds(10, 3, 2), 0, 0, 10),
        ];
        for (bounds, current, all, expected) in table {
            assert_eq!(
                new_size(bounds, current, all),
                expected,
                "{bounds:?} {current} {all}"
            );
        }
    }

    #[test]
    fn old_sets_shrink_only_as_far_as_allowed() {
        let table = [
            // Nothing available in the new set yet: nothing to spare.
            (
                bounds(1, 1, 0),
                set("new", 1, 0),
                vec![set("old", 1, 1)],
                vec![],
            ),
            (
                bounds(1, 1, 0),
                set("new", 1, 1),
                vec![set("old", 1, 1)],
                vec![("old", 0)],
            ),
            (
                bounds(3, 1, 0),
                set("new", 1, 1),
                vec![set("old", 3, 3)],
                vec![("old", 2)],
            ),
            (
                bounds(3, 0, 1),
                set("new", 0, 0),
                vec![set("old", 3, 3)],
                vec![("old", 2)],
            ),
            // Broken old Pods go first.
            (
                bounds(4, 1, 1),
                set("new", 1, 0),
                vec![set("a", 2, 0), set("b", 2, 2)],
                vec![("a", 1)],
            ),
            (
                bounds(3, 1, 0),
                set("new", 3, 3),
                vec![set("a", 1, 1), set("b", 1, 0)],
                vec![("a", 0), ("b", 0)],
            ),
        ];
        for (bounds, new, old, expected) in table {
            let expected: Vec<Resize> = expected
                .into_iter()
                .map(|(name, size)| (name.to_owned(), size))
                .collect();
            assert_eq!(
                shrink_old(bounds, Some(&new), &old),
                expected,
                "{bounds:?} {new:?} {old:?}"
            );
        }
    }

    #[test]
    fn scaling_in_a_rollout_is_shared() {
        let part = |name: &str, replicas, max| Set {
            max_replicas: Some(max),
            ..set(name, replicas, replicas)
        };
        // 10 replicas, surge 3: 5 new and 8 old. Scaled to 15 with surge 3.
        let sets = [part("old", 8, 13), part("new", 5, 13)];
        assert_eq!(
            proportional(bounds(15, 3, 2), &sets),
            [("old".to_owned(), 11), ("new".to_owned(), 7)]
        );
        assert_eq!(
            proportional(bounds(0, 0, 0), &sets),
            [("old".to_owned(), 0), ("new".to_owned(), 0)]
        );
    }

    proptest! {
        /// Whatever the sets look like, a rolling update makes no more Pods than replicas plus surge, and
        /// takes no available Pod when too few would be left.
        #[test]
        fn limits_hold(
            replicas in 0..20i32, surge in 0..5i32, unavailable in 0..5i32,
            new in (0..20i32, 0..20i32), old in proptest::collection::vec((0..20i32, 0..20i32), 0..4),
        ) {
            let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
            let bounds = bounds(replicas, surge, unavailable.min(replicas));
            let new = set("new", new.0, new.1.min(new.0));
            let old: Vec<Set> = old
                .iter()
                .enumerate()
                .map(|(i, (size, available))| set(&i.to_string(), *size, *available.min(size)))
                .collect();
            let all = new.replicas + old.iter().map(|set| set.replicas).sum::<i32>();
            let grown = new_size(bounds, new.replicas, all);
            if grown > new.replicas {
                prop_assert!(all + grown - new.replicas <= replicas + surge);
            }
            let available = new.available + old.iter().map(|set| set.available).sum::<i32>();
            let resizes = shrink_old(bounds, Some(&new), &old);
            let mut lost = 0;
            for (name, size) in &resizes {
                let before = old.iter().find(|set| &set.name == name).unwrap();
                prop_assert!(*size >= 0 && *size < before.replicas);
                lost += (before.available - size).max(0);
            }
            prop_assert!(lost == 0 || available - lost >= replicas - bounds.unavailable);
        }
    }
}
