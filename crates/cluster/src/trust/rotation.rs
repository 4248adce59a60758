//! What has to be done next so that keys change and no request fails. Pure: the same input always gives the same step.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kah_iam::federated::{KeyRecord, KeyState, LONGEST_LIFE};

/// How fast keys change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long a key signs.
    pub every: SignedDuration,
    /// How long a next key is known to members at least, before it signs.
    pub settle: SignedDuration,
    /// How long a retired key is still trusted: the longest life of a token, and room for clocks and for replicas that hear of it late.
    pub linger: SignedDuration,
    /// Between two looks while something is under way.
    pub look: SignedDuration,
    /// Between two looks otherwise.
    pub rest: SignedDuration,
    /// How long a member that does not answer is taken to be as it was, before it counts as away: an answer that was lost is no reason to go on
    /// without it.
    pub grace: SignedDuration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            every: SignedDuration::from_hours(30 * 24),
            settle: SignedDuration::from_secs(10),
            linger: SignedDuration::from_secs(LONGEST_LIFE.as_secs() + 60),
            look: SignedDuration::from_secs(2),
            rest: SignedDuration::from_secs(15),
            grace: SignedDuration::from_secs(60),
        }
    }
}

/// What a federated member has been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// What it should.
    All,
    /// Something else, or nothing: the ids of the keys in it.
    Other(Vec<String>),
    /// It trusts the host of this name. People decide whose it is.
    Foreign(String),
    /// It cannot be told now, in these words.
    Away(String),
}

/// A federated member, as far as a rotation depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberKeys {
    /// The Cluster's name.
    pub cluster: String,
    /// What it has been told.
    pub told: Told,
    /// The ids of the keys that its ks-apiserver accepts; `None` where it does not answer, and so refuses nobody either.
    pub accepts: Option<Vec<String>>,
}

/// What members accepted when they last answered, and which of them do not keep what they are told.
#[derive(Debug, Default)]
pub struct Memory {
    accepted: BTreeMap<String, (Timestamp, Vec<String>)>,
    /// When they were told last, and how often since they were seen to know it.
    told: BTreeMap<String, (Timestamp, u32)>,
}

/// So often a member is told without having been seen to know it, before it has to wait.
const TOLD_AT_ONCE: u32 = 2;

impl Memory {
    /// These members were told. One that shows something else every time is told once in a while, and holds up nobody meanwhile.
    pub fn published(&mut self, names: &[String], now: Timestamp) {
        for name in names {
            let (at, times) = self.told.entry(name.clone()).or_insert((now, 0));
            *at = now;
            *times = times.saturating_add(1);
        }
    }

    /// Takes up what was found out, and puts what was known in the place of answers that are missing for less than `grace`. Of one that never answered
    /// nothing is known, so that it counts as one that accepts no key meanwhile.
    pub fn fill_in(&mut self, members: &mut [MemberKeys], now: Timestamp, grace: SignedDuration) {
        let is_there = |name: &String| members.iter().any(|member| member.cluster == *name);
        self.accepted.retain(|name, _| is_there(name));
        self.told.retain(|name, _| is_there(name));
        for member in members {
            match (&member.told, self.told.get(&member.cluster)) {
                (Told::All, Some(_)) => {
                    self.told.remove(&member.cluster);
                }
                (Told::Other(_), Some((at, times)))
                    if *times >= TOLD_AT_ONCE && now.duration_since(*at) < grace =>
                {
                    member.told = Told::Away("it does not keep what it is told".into());
                }
                _ => {}
            }
            match &member.accepts {
                Some(ids) => {
                    self.accepted
                        .insert(member.cluster.clone(), (now, ids.clone()));
                }
                None => {
                    let known = self.accepted.entry(member.cluster.clone());
                    let (at, ids) = known.or_insert_with(|| (now, Vec::new()));
                    if now.duration_since(*at) < grace {
                        member.accepts = Some(ids.clone());
                    }
                }
            }
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the first key.
    First,
    /// Make the key that will sign next.
    Next,
    /// Tell these members.
    Publish(Vec<String>),
    /// Let the next key sign.
    Promote,
    /// Forget these retired keys.
    Forget(Vec<String>),
    /// Look again soon; these members answer and do not accept the next key yet.
    Wait(Vec<String>),
    /// All is as it should be.
    Rest,
}

/// The next step. Each is safe to do twice, and is done before anything later is decided.
#[must_use]
pub fn next_step(keys: &[KeyRecord], now: Timestamp, members: &[MemberKeys], pace: &Pace) -> Step {
    if keys.is_empty() {
        return if members.is_empty() {
            Step::Rest
        } else {
            Step::First
        };
    }
    let untold = names(members, |member| matches!(member.told, Told::Other(_)));
    if !untold.is_empty() {
        return Step::Publish(untold);
    }
    let age = |key: &KeyRecord| now.duration_since(key.since);
    let of = |state: KeyState| keys.iter().filter(move |key| key.state == state);
    let ended: Vec<String> = of(KeyState::Retired)
        .filter(|key| age(key) >= pace.linger)
        .map(|key| key.id.clone())
        .collect();
    if !ended.is_empty() {
        return Step::Forget(ended);
    }
    if let Some(next) = of(KeyState::Next).next() {
        let refusing = refusing(keys, members);
        return if (refusing.is_empty() || next.forced) && age(next) >= pace.settle {
            Step::Promote
        } else {
            Step::Wait(refusing)
        };
    }
    if of(KeyState::Active).any(|key| age(key) >= pace.every) {
        return Step::Next;
    }
    Step::Rest
}

/// Who answers callers and does not accept the next key. Whoever trusts another host refuses this one's keys, old and new.
#[must_use]
pub fn refusing(keys: &[KeyRecord], members: &[MemberKeys]) -> Vec<String> {
    let Some(next) = keys.iter().find(|key| key.state == KeyState::Next) else {
        return Vec::new();
    };
    names(members, |member| {
        let accepts = member.accepts.as_ref();
        !matches!(member.told, Told::Foreign(_))
            && accepts.is_some_and(|accepts| !accepts.contains(&next.id))
    })
}

fn names(members: &[MemberKeys], which: impl Fn(&MemberKeys) -> bool) -> Vec<String> {
    members
        .iter()
        .filter(|member| which(member))
        .map(|member| member.cluster.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use kah_iam::SigningKeys;

    use super::*;

    const START: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(START + seconds).unwrap()
    }

    fn member(cluster: &str, told: Told, accepts: Option<&[&str]>) -> MemberKeys {
        MemberKeys {
            cluster: cluster.into(),
            told,
            accepts: accepts.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect()),
        }
    }

    fn key(id: &str, state: KeyState, since: i64) -> KeyRecord {
        KeyRecord {
            id: id.into(),
            state,
            made: at(since),
            since: at(since),
            forced: false,
            public: serde_json::Value::Null,
        }
    }

    fn forced(key: KeyRecord) -> KeyRecord {
        KeyRecord {
            forced: true,
            ..key
        }
    }

    #[test]
    fn who_does_not_keep_what_it_is_told_is_told_again_and_holds_up_nobody() {
        let pace = Pace::default();
        let retired = key("a", KeyState::Retired, 0);
        let keys = [retired, key("b", KeyState::Active, 0)];
        let mut memory = Memory::default();
        let mut told = 0;
        let mut forgotten = None;
        let start = pace.linger.as_secs();
        for seconds in start..start + 3 * pace.grace.as_secs() {
            let mut members = [member("m", Told::Other(vec![]), Some(&["a"]))];
            memory.fill_in(&mut members, at(seconds), pace.grace);
            match next_step(&keys, at(seconds), &members, &pace) {
                Step::Publish(names) => {
                    told += 1;
                    memory.published(&names, at(seconds));
                }
                Step::Forget(_) => forgotten = forgotten.or(Some(seconds - start)),
                step => panic!("{step:?}"),
            }
        }
        assert_eq!((told, forgotten), (4, Some(2)));
        // Once it knows, it is told at once again.
        let later = at(start + 1000);
        let mut members = [member("m", Told::All, Some(&["a"]))];
        memory.fill_in(&mut members, later, pace.grace);
        let mut members = [member("m", Told::Other(vec![]), Some(&["a"]))];
        memory.fill_in(&mut members, later, pace.grace);
        assert_eq!(members[0].told, Told::Other(vec![]));
    }

    #[test]
    fn each_state_has_its_step() {
        use KeyState::{Active, Next, Retired};
        let pace = Pace::default();
        let (month, linger) = (30 * 24 * 3600, pace.linger.as_secs());
        let away = || Told::Away("no answer".into());
        let a = || key("a", Active, 0);
        let some = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        for (what, keys, now, members, step) in [
            ("nobody needs a key", vec![], 0, vec![], Step::Rest),
            (
                "the first one",
                vec![],
                0,
                vec![member("m", away(), None)],
                Step::First,
            ),
            (
                "all is well",
                vec![a()],
                month - 1,
                vec![member("m", Told::All, Some(&["a"]))],
                Step::Rest,
            ),
            (
                "what was deleted is told again, before all else",
                vec![a()],
                month,
                vec![
                    member("m", Told::Other(vec![]), Some(&[])),
                    member("n", Told::All, Some(&["a"])),
                    member("o", away(), None),
                    member("p", Told::Foreign("b".into()), Some(&["x"])),
                ],
                Step::Publish(some(&["m"])),
            ),
            ("it is old", vec![a()], month, vec![], Step::Next),
            (
                "one is away: no reason to wait",
                vec![a()],
                month,
                vec![member("m", away(), None)],
                Step::Next,
            ),
            (
                "not long enough",
                vec![a(), key("b", Next, 100)],
                109,
                vec![member("m", Told::All, Some(&["a", "b"]))],
                Step::Wait(vec![]),
            ),
            (
                "known everywhere",
                vec![a(), key("b", Next, 100)],
                110,
                vec![
                    member("m", Told::All, Some(&["a", "b"])),
                    member("n", away(), None),
                ],
                Step::Promote,
            ),
            (
                "told, but not read yet",
                vec![a(), key("b", Next, 100)],
                500,
                vec![
                    member("m", Told::All, Some(&["a"])),
                    member("n", Told::All, Some(&["a", "b"])),
                ],
                Step::Wait(some(&["m"])),
            ),
            (
                "cannot be told, but answers: its callers would be refused",
                vec![a(), key("b", Next, 100)],
                500,
                vec![member("m", away(), Some(&["a"]))],
                Step::Wait(some(&["m"])),
            ),
            (
                "one that belongs to another host refuses any key of ours",
                vec![a(), key("b", Next, 100)],
                500,
                vec![
                    member("m", Told::Foreign("x".into()), Some(&[])),
                    member("n", Told::All, Some(&["a", "b"])),
                ],
                Step::Promote,
            ),
            (
                "somebody said that it goes on without those who do not follow",
                vec![a(), forced(key("b", Next, 100))],
                110,
                vec![member("m", Told::All, Some(&["a"]))],
                Step::Promote,
            ),
            (
                "and not before the others can have read it",
                vec![a(), forced(key("b", Next, 100))],
                109,
                vec![member("m", Told::All, Some(&["a"]))],
                Step::Wait(some(&["m"])),
            ),
            (
                "tokens of the old one may still be about",
                vec![key("a", Retired, 0), key("b", Active, 0)],
                linger - 1,
                vec![member("m", Told::All, Some(&["a", "b"]))],
                Step::Rest,
            ),
            (
                "the old one dies",
                vec![key("a", Retired, 0), key("b", Active, 0)],
                linger,
                vec![member("m", Told::All, Some(&["a", "b"]))],
                Step::Forget(some(&["a"])),
            ),
            (
                "one that comes back with an old set is told before it is needed",
                vec![key("b", Active, 0)],
                linger,
                vec![member("m", Told::Other(vec!["a".into()]), None)],
                Step::Publish(some(&["m"])),
            ),
        ] {
            assert_eq!(next_step(&keys, at(now), &members, &pace), step, "{what}");
        }
    }

    #[test]
    fn one_lost_answer_makes_nobody_away() {
        let pace = Pace::default();
        let keys = [key("a", KeyState::Active, 0), key("b", KeyState::Next, 0)];
        let mut memory = Memory::default();
        let mut step = |seconds: i64, accepts: Option<&[&str]>| {
            let told = match accepts {
                Some(_) => Told::All,
                None => Told::Away("no answer".into()),
            };
            let mut members = [member("m", told, accepts)];
            memory.fill_in(&mut members, at(seconds), pace.grace);
            next_step(&keys, at(seconds), &members, &pace)
        };
        let waits = Step::Wait(vec!["m".into()]);
        // It never answered; it answered without the key; it answers no more.
        assert_eq!(step(100, None), waits);
        assert_eq!(step(159, None), waits);
        assert_eq!(step(160, Some(&["a"])), waits);
        assert_eq!(step(219, None), waits);
        assert_eq!(step(220, None), Step::Promote);
        assert_eq!(step(221, Some(&["a"])), waits);
        assert_eq!(step(222, Some(&["a", "b"])), Step::Promote);
        assert_eq!(step(223, None), Step::Promote);
    }

    /// Plays a rotation with members that come and go. A member that answers always accepts the key that signs.
    #[test]
    fn j5_no_member_that_answers_ever_misses_the_key_that_signs() {
        let pace = Pace::default();
        for away in 0..8_u32 {
            let mut keys = SigningKeys::first(at(0)).unwrap();
            keys.make_next(at(0)).unwrap();
            let mut held: Vec<Vec<String>> = vec![vec![keys.records()[0].id.clone()]; 3];
            let mut seconds = 0;
            let mut promoted = false;
            for round in 0.. {
                assert!(round < 500, "it comes to an end");
                // Those who are away come back after the promotion.
                let is_away = |member: usize| !promoted && away & (1 << member) != 0;
                let all: Vec<String> = keys.records().iter().map(|key| key.id.clone()).collect();
                let members: Vec<MemberKeys> = held
                    .iter()
                    .enumerate()
                    .map(|(number, ids)| MemberKeys {
                        cluster: number.to_string(),
                        told: match () {
                            () if is_away(number) => Told::Away(String::new()),
                            () if *ids == all => Told::All,
                            () => Told::Other(ids.clone()),
                        },
                        accepts: (!is_away(number)).then(|| ids.clone()),
                    })
                    .collect();
                match next_step(keys.records(), at(seconds), &members, &pace) {
                    Step::Publish(names) => {
                        for name in names {
                            held[name.parse::<usize>().unwrap()] = all.clone();
                        }
                    }
                    Step::Promote => {
                        for (number, ids) in held.iter().enumerate() {
                            let next = keys.records().iter().find(|k| k.state == KeyState::Next);
                            assert!(is_away(number) || ids.contains(&next.unwrap().id));
                        }
                        keys.promote(at(seconds)).unwrap();
                        promoted = true;
                    }
                    Step::Forget(ids) => keys.forget(&ids),
                    Step::Rest if keys.records().len() == 1 => break,
                    Step::Wait(_) | Step::Rest => seconds += 5,
                    step => panic!("{step:?}"),
                }
            }
            let left: Vec<String> = keys.records().iter().map(|key| key.id.clone()).collect();
            assert!(
                held.iter().all(|ids| *ids == left),
                "the old key is gone everywhere"
            );
        }
    }
}
