//! What the answers of a member add up to. Pure: no clock, no network.
//!
//! Silence counts once it has lasted: a blip marks nothing, and a member that is gone is known in under 10 s ([`PROBE`], [`Health::pause`] and
//! [`LASTING`] together). A word of the member itself counts at once where it ends silence, or a refusal that is older than [`FRESH`]; otherwise once
//! it was heard twice in a row, and the second time is asked for at once. Replicas of a member may disagree, and what each says in its turn is no news:
//! once refusals and good words have been heard in turns, it takes [`SETTLED`] without a refusal to believe that the refusals are over. Of silence, too,
//! another name counts once it was heard twice in a row.

use std::time::Duration;

use tokio::time::Instant;

use crate::{AccessCode, Answer};

/// For one probe.
pub const PROBE: Duration = Duration::from_millis(2500);
/// For one probe of a member that has not answered the last one.
pub const PROBE_IN_DOUBT: Duration = Duration::from_secs(2);
/// How long nothing good is heard before a member counts as gone.
const LASTING: Duration = Duration::from_secs(4);
/// And how many probes have to have failed.
const FAILED: u32 = 2;
/// How often a word that contradicts what is held has to be heard in a row, within [`SHORT`].
const TWICE: u32 = 2;
const SHORT: Duration = Duration::from_secs(10);
/// So long after a change one good word is not enough for the next.
const FRESH: Duration = Duration::from_secs(30);
/// Before a word is asked for again.
const AGAIN: Duration = Duration::from_millis(200);
/// A refusal, a good word and a refusal within this time are of replicas that disagree; and for so long that is remembered.
const MIXED: Duration = Duration::from_secs(60);
/// How long, and how often in a row, good words are heard until such replicas agree.
const SETTLED: Duration = Duration::from_secs(10);
const OFTEN: u32 = 3;
/// Before the next of these is asked for: often enough that none of a few replicas is missed.
const SETTLING: Duration = Duration::from_millis(500);

/// What is held of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It lets in who comes through the host.
    Accepted,
    /// It does not.
    Refused {
        /// Why.
        code: AccessCode,
        /// What shows it, as it was when the verdict was found.
        evidence: String,
    },
}

impl Verdict {
    /// Whether requests reach the member's ks-apiserver at all. One that refuses tokens still answers for itself.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        match self {
            Self::Accepted => true,
            Self::Refused { code, .. } => !matches!(
                code,
                AccessCode::MemberNotReady
                    | AccessCode::MemberUnreachable
                    | AccessCode::NameNotResolved
                    | AccessCode::TLSUntrusted
                    | AccessCode::TLSExpired
                    | AccessCode::CredentialRejected
                    | AccessCode::RouteForbidden
                    | AccessCode::ConfigUnreadable
            ),
        }
    }

    /// The cause, where access is lost.
    #[must_use]
    pub fn code(&self) -> Option<AccessCode> {
        match self {
            Self::Accepted => None,
            Self::Refused { code, .. } => Some(*code),
        }
    }
}

/// A member's health, as the probes so far show it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    verdict: Option<Verdict>,
    /// When the verdict changed last.
    changed: Option<Instant>,
    doubt: Option<Doubt>,
    /// A word that contradicts the verdict.
    heard: Option<Heard>,
    /// Another name of silence than the verdict's, and how often it was heard in a row.
    renamed: Option<(AccessCode, u32)>,
    turns: Turns,
}

/// Refusals and good words in turns.
#[derive(Debug, Clone, Copy, Default)]
struct Turns {
    refused: Option<Instant>,
    /// When a good word came after that.
    then_accepted: Option<Instant>,
    /// When replicas disagreed last.
    mixed: Option<Instant>,
}

impl Turns {
    fn take(&mut self, refused: bool, now: Instant) {
        let lately = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < MIXED);
        if !refused {
            self.then_accepted = self.refused.map(|_| now);
            return;
        }
        if lately(self.refused) && lately(self.then_accepted) {
            self.mixed = Some(now);
        }
        self.refused = Some(now);
        self.then_accepted = None;
    }

    fn are_mixed(&self, now: Instant) -> bool {
        self.mixed.is_some_and(|at| now.duration_since(at) < MIXED)
    }
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    /// The code of a refusal, or none.
    code: Option<AccessCode>,
    since: Instant,
    times: u32,
    /// Whether time has to pass, too.
    settling: bool,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    since: Instant,
    failed: u32,
}

impl Health {
    /// What is held; `None` before the first word.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// Whether the last probe failed in a way that may pass by itself.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Takes in the answer to a probe; whether that changed the verdict.
    pub fn observe(&mut self, answer: &Answer, began: Instant, ended: Instant) -> bool {
        let (code, evidence) = match answer {
            Answer::Accepted => return self.hear(Verdict::Accepted, ended),
            Answer::Refused { code, evidence } => (*code, evidence.clone()),
        };
        if let Some(code) = code.filter(|code| is_its_word(*code)) {
            return self.hear(Verdict::Refused { code, evidence }, ended);
        }
        let doubt = self.doubt.get_or_insert(Doubt {
            since: began,
            failed: 0,
        });
        doubt.failed = doubt.failed.saturating_add(1);
        let lasted = ended.duration_since(doubt.since) >= LASTING && doubt.failed >= FAILED;
        if !lasted {
            return false;
        }
        // As doctor names what has no name.
        let code = code.unwrap_or(AccessCode::VersionUnsupported);
        let before = self.verdict.as_ref().and_then(Verdict::code);
        if before == Some(code) {
            self.renamed = None;
            return false;
        }
        if before.is_some_and(|before| !is_its_word(before)) {
            let times = self.renamed.filter(|(renamed, _)| *renamed == code);
            let times = times.map_or(1, |(_, times)| times + 1);
            if times < TWICE {
                self.renamed = Some((code, times));
                return false;
            }
        }
        self.hold(Verdict::Refused { code, evidence }, ended);
        true
    }

    /// A word settles every doubt. The evidence of a verdict stays as it was when it was found.
    fn hear(&mut self, verdict: Verdict, now: Instant) -> bool {
        self.doubt = None;
        self.renamed = None;
        let code = verdict.code();
        self.turns.take(code.is_some(), now);
        let mut settling = false;
        let needed = match &self.verdict {
            None => 1,
            Some(before) if before.code() == code => {
                self.heard = None;
                // Its words are the host's own, and tell what people have to do.
                let told = code == Some(AccessCode::TrustUndecided) && *before != verdict;
                if told {
                    self.hold(verdict, now);
                }
                return told;
            }
            Some(Verdict::Accepted) => TWICE,
            // What ends silence is news in any case.
            Some(before) if !before.code().is_some_and(is_its_word) => 1,
            Some(_) if verdict == Verdict::Accepted && self.turns.are_mixed(now) => {
                settling = true;
                OFTEN
            }
            Some(_) if verdict == Verdict::Accepted => {
                let fresh = |at| now.duration_since(at) < FRESH;
                if self.changed.is_some_and(fresh) {
                    TWICE
                } else {
                    1
                }
            }
            Some(_) => TWICE,
        };
        // Of those who refuse each may have its own reason.
        let within = if settling { MIXED } else { SHORT };
        let goes_on = |heard: &Heard| {
            heard.code.is_some() == code.is_some() && now.duration_since(heard.since) < within
        };
        let before = self.heard.filter(goes_on);
        let heard = Heard {
            code,
            since: before.map_or(now, |heard| heard.since),
            times: before.map_or(0, |heard| heard.times).saturating_add(1),
            settling,
        };
        let early = settling && now.duration_since(heard.since) < SETTLED;
        if heard.times < needed || early {
            self.heard = Some(heard);
            return false;
        }
        self.hold(verdict, now);
        true
    }

    fn hold(&mut self, verdict: Verdict, now: Instant) {
        self.verdict = Some(verdict);
        self.changed = Some(now);
        self.heard = None;
        self.renamed = None;
    }

    /// How long to wait for the next probe. `random` lies in 0..1: members that were found together are not asked together for ever.
    #[must_use]
    pub fn pause(&self, random: f64) -> Duration {
        if let (Some(heard), None) = (&self.heard, &self.doubt) {
            return if heard.settling { SETTLING } else { AGAIN };
        }
        let reached = self.verdict.as_ref().is_none_or(Verdict::is_reached);
        let middle = match (&self.doubt, reached) {
            (Some(_), true) => 0.5,
            // Who is waiting for it to come back should not wait long.
            (Some(_), false) | (None, false) => 1.0,
            (None, true) => 3.0,
        };
        Duration::from_secs_f64(middle * (0.85 + 0.3 * random.clamp(0.0, 1.0)))
    }

    /// The time limit of the next probe.
    #[must_use]
    pub fn limit(&self) -> Duration {
        if self.is_in_doubt() {
            PROBE_IN_DOUBT
        } else {
            PROBE
        }
    }
}

/// Whether an answer with this code came from somebody who will say the same a moment later: not silence, nor a server that is starting.
fn is_its_word(code: AccessCode) -> bool {
    matches!(
        code,
        AccessCode::TokenNotInCache
            | AccessCode::SignatureInvalid
            | AccessCode::ClockSkew
            | AccessCode::UserMissing
            | AccessCode::UserDisabled
            | AccessCode::CredentialRejected
            | AccessCode::RouteForbidden
            | AccessCode::ConfigUnreadable
            | AccessCode::TrustUndecided
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: impl Into<Option<AccessCode>>) -> Answer {
        Answer::Refused {
            code: code.into(),
            evidence: "its words".into(),
        }
    }

    /// Feeds answers, each as (began, ended, answer) in milliseconds; gives the code that is held after each.
    fn held(answers: &[(u64, u64, Answer)]) -> Vec<Option<AccessCode>> {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut health = Health::default();
        health.observe(&Answer::Accepted, start, start);
        answers
            .iter()
            .map(|(began, ended, answer)| {
                health.observe(answer, at(*began), at(*ended));
                health.verdict().and_then(Verdict::code)
            })
            .collect()
    }

    #[test]
    fn the_table_of_answers() {
        use AccessCode::{
            MemberNotReady, MemberUnreachable as Gone, SignatureInvalid as Signature,
            TokenNotInCache as NoToken,
        };
        use Answer::Accepted as Good;
        let gone = || refused(Gone);
        let no = || refused(NoToken);
        for (what, answers, expected) in [
            (
                "a blip of 3 s",
                vec![(0, 2000, gone()), (2500, 3000, gone()), (3500, 3510, Good)],
                vec![None, None, None],
            ),
            (
                "a second blip counts anew",
                vec![
                    (0, 10, gone()),
                    (500, 510, Good),
                    (4000, 4100, gone()),
                    (4600, 4700, gone()),
                ],
                vec![None, None, None, None],
            ),
            (
                "silence that lasts",
                vec![(0, 2500, gone()), (3000, 5000, gone())],
                vec![None, Some(Gone)],
            ),
            (
                "one very slow failure is not enough",
                vec![(0, 9000, gone())],
                vec![None],
            ),
            (
                "back at once",
                vec![(0, 2500, gone()), (3000, 5000, gone()), (6000, 6001, Good)],
                vec![None, Some(Gone), None],
            ),
            (
                "a refusal twice, and a cure soon after it twice",
                vec![
                    (0, 1, no()),
                    (200, 201, no()),
                    (3000, 3001, Good),
                    (3200, 3201, Good),
                ],
                vec![None, Some(NoToken), Some(NoToken), None],
            ),
            (
                "a cure of what has lasted, at once",
                vec![(0, 1, no()), (200, 201, no()), (40_000, 40_001, Good)],
                vec![None, Some(NoToken), None],
            ),
            (
                "replicas that disagree while it is well",
                vec![
                    (0, 1, no()),
                    (200, 201, Good),
                    (3000, 3001, no()),
                    (3200, 3201, Good),
                ],
                vec![None, None, None, None],
            ),
            (
                "replicas that disagree while it refuses",
                vec![
                    (0, 1, no()),
                    (200, 201, no()),
                    (3000, 3001, Good),
                    (3200, 3201, no()),
                    (6000, 6001, Good),
                    (6200, 6201, no()),
                ],
                vec![
                    None,
                    Some(NoToken),
                    Some(NoToken),
                    Some(NoToken),
                    Some(NoToken),
                    Some(NoToken),
                ],
            ),
            (
                "two refusals for different reasons",
                vec![(0, 1, no()), (200, 201, refused(Signature))],
                vec![None, Some(Signature)],
            ),
            (
                "two refusals far apart, with silence between",
                vec![(0, 1, no()), (200, 201, gone()), (11_000, 11_001, no())],
                vec![None, None, None],
            ),
            (
                "a restart between refusal and cure",
                vec![
                    (0, 1, no()),
                    (200, 201, no()),
                    (3000, 3001, refused(MemberNotReady)),
                    (40_000, 40_001, Good),
                ],
                vec![None, Some(NoToken), Some(NoToken), None],
            ),
            (
                "a refusal ends silence at once",
                vec![(0, 2500, gone()), (3000, 5000, gone()), (6000, 6001, no())],
                vec![None, Some(Gone), Some(NoToken)],
            ),
            (
                "silence with another name",
                vec![
                    (0, 1, gone()),
                    (4000, 4001, gone()),
                    (5000, 5001, refused(MemberNotReady)),
                    (6000, 6001, refused(MemberNotReady)),
                ],
                vec![None, Some(Gone), Some(Gone), Some(MemberNotReady)],
            ),
            (
                "replicas that disagreed, and agree again",
                vec![
                    (0, 1, no()),
                    (200, 201, no()),
                    (3000, 3001, Good),
                    (3200, 3201, no()),
                    (6000, 6001, Good),
                    (7000, 7001, Good),
                    (8000, 8001, Good),
                    (15_990, 15_991, Good),
                    (16_990, 16_991, Good),
                ],
                [vec![None], vec![Some(NoToken); 7], vec![None]].concat(),
            ),
            (
                "what has no name",
                vec![(0, 1, refused(None)), (4000, 4001, refused(None))],
                vec![None, Some(AccessCode::VersionUnsupported)],
            ),
        ] {
            assert_eq!(held(&answers), expected, "{what}");
        }
    }

    #[test]
    fn a_member_that_died_is_known_within_10_s() {
        // The worst case: it dies just after a good answer, and probes run into their time limits or fail at once.
        for fails_after in [0.0, 0.1, 1.0, 3.0] {
            let start = Instant::now();
            let mut health = Health::default();
            health.observe(&Answer::Accepted, start, start);
            let mut now = start;
            while health.verdict() == Some(&Verdict::Accepted) {
                let began = now + health.pause(1.0);
                now = began + health.limit().min(Duration::from_secs_f64(fails_after));
                health.observe(&refused(AccessCode::MemberUnreachable), began, now);
            }
            let took = now - start;
            assert!(took < Duration::from_secs(9), "{fails_after}: {took:?}");
            assert!(took > LASTING, "{fails_after}: {took:?}");
        }
    }

    #[test]
    fn a_plain_refusal_is_known_within_10_s_and_the_first_word_at_once() {
        let refusal = refused(AccessCode::TokenNotInCache);
        let start = Instant::now();
        assert!(Health::default().observe(&refusal, start, start));
        // The worst case: it begins just after a good answer, and each answer takes as long as it may.
        let mut health = Health::default();
        health.observe(&Answer::Accepted, start, start);
        let mut now = start;
        while health.verdict() == Some(&Verdict::Accepted) {
            let began = now + health.pause(1.0);
            now = began + health.limit();
            health.observe(&refusal, began, now);
        }
        let took = now - start;
        assert!(took < Duration::from_secs(9), "{took:?}");
    }

    /// Asks for an hour as the reconciler does; gives how often the verdict turned, and what is held in the end.
    fn an_hour_of(mut answer: impl FnMut() -> Answer) -> (u32, Option<AccessCode>) {
        let start = Instant::now();
        let mut health = Health::default();
        let (mut now, mut turns) = (start, 0);
        while now - start < Duration::from_secs(3600) {
            turns += u32::from(health.observe(&answer(), now, now));
            now += health.pause(0.5);
        }
        (turns, health.verdict().and_then(Verdict::code))
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

        #[test]
        fn one_bad_replica_of_two_is_told_and_not_again_and_again(seed: u64) {
            use rand::{RngExt, SeedableRng};
            let mut random = rand::rngs::StdRng::seed_from_u64(seed);
            let (turns, held) = an_hour_of(|| {
                if random.random_bool(0.5) {
                    Answer::Accepted
                } else {
                    refused(AccessCode::TokenNotInCache)
                }
            });
            // The first word, and few more until it is clear that they disagree.
            proptest::prop_assert!(turns <= 12, "{turns} turns");
            proptest::prop_assert_eq!(held, Some(AccessCode::TokenNotInCache));
        }

        #[test]
        fn silence_by_any_names_is_told_once(phase in 0..3_usize) {
            let names = [AccessCode::MemberUnreachable, AccessCode::MemberNotReady, AccessCode::NameNotResolved];
            let mut next = phase;
            let (turns, held) = an_hour_of(|| {
                next += 1;
                refused(names[next % names.len()])
            });
            proptest::prop_assert_eq!(turns, 1);
            proptest::prop_assert!(held.is_some());
        }
    }

    #[test]
    fn a_plain_repair_shows_within_2_s_of_the_next_question() {
        let refusal = refused(AccessCode::TokenNotInCache);
        for random in [0.0, 1.0] {
            let (mut health, mut now) = (Health::default(), Instant::now());
            for _ in 0..3 {
                health.observe(&refusal, now, now);
                now += health.pause(random);
            }
            let asked = now;
            while !health.observe(&Answer::Accepted, now, now) {
                now += health.pause(random);
            }
            assert!(now - asked < Duration::from_secs(2), "{:?}", now - asked);
        }
    }

    #[test]
    fn the_verdict_says_whether_requests_are_sent_on() {
        for code in AccessCode::ALL {
            let verdict = Verdict::Refused {
                code,
                evidence: String::new(),
            };
            let own_words = matches!(
                code,
                AccessCode::TokenNotInCache
                    | AccessCode::SignatureInvalid
                    | AccessCode::ClockSkew
                    | AccessCode::UserMissing
                    | AccessCode::UserDisabled
                    | AccessCode::CredentialExpiring
                    | AccessCode::VersionUnsupported
                    | AccessCode::WrongRole
                    | AccessCode::TrustUndecided
            );
            assert_eq!(verdict.is_reached(), own_words, "{code}");
        }
    }

    #[test]
    fn pauses_differ_but_little() {
        let health = Health::default();
        let (least, most) = (health.pause(0.0), health.pause(1.0));
        assert!(least >= Duration::from_millis(2500) && most <= Duration::from_millis(3500));
        assert!(least < most);
    }
}
