//! The signing keys of a host, as the Secret `hub-signing-keys` keeps them: the state of a rotation is this and nothing else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KeyError, SigningKey, Trusted, VerifyingKey};

/// Name of the Secret, in namespace `kubesphere-system` of a host.
pub const SIGNING_KEYS: &str = "hub-signing-keys";
/// The entry that says which keys there are.
const RECORDS: &str = "keys.json";
/// More keys than a rotation ever needs are no set of keys.
const MOST_KEYS: usize = 8;

/// Why the keys of a host cannot be used. Never holds a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum KeysError {
    #[error("read Secret hub-signing-keys: its keys.json is missing or cannot be read")]
    Records,
    #[error("read Secret hub-signing-keys: the private half of a key is missing")]
    Private,
    #[error("read Secret hub-signing-keys")]
    Key(#[from] KeyError),
    #[error("change the signing keys: a rotation is under way")]
    UnderWay,
    #[error("change the signing keys: there is no next key")]
    NoNext,
}

/// Where a key stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// Members learn it; nothing is signed with it yet.
    Next,
    /// What is signed is signed with it.
    Active,
    /// Nothing is signed with it any more; members forget it when the last token has ended. Its private half is gone.
    Retired,
}

/// One key, without its private half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    /// Its id, as tokens name it.
    pub id: String,
    /// Where it stands.
    pub state: KeyState,
    /// When it was made.
    pub made: Timestamp,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// Its public half, as JWK.
    pub public: Value,
    /// Whether a next key is to sign although some members do not accept it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
}

/// All keys of a host. Has no `Debug`: private halves are never shown.
#[derive(Clone, Default)]
pub struct SigningKeys {
    records: Vec<KeyRecord>,
    /// PKCS#8 PEM by id, of those that are not retired.
    private: BTreeMap<String, String>,
}

impl SigningKeys {
    /// One key, which is active: before the first one no member trusts any.
    ///
    /// # Errors
    /// [`KeysError::Key`].
    pub fn first(now: Timestamp) -> Result<Self, KeysError> {
        let mut keys = Self::default();
        keys.add(KeyState::Active, now)?;
        Ok(keys)
    }

    /// Reads the data of the Secret.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, KeysError> {
        let records = data.get(RECORDS).ok_or(KeysError::Records)?;
        let records: Vec<KeyRecord> =
            serde_json::from_slice(&records.0).map_err(|_| KeysError::Records)?;
        if records.len() > MOST_KEYS {
            return Err(KeysError::Records);
        }
        let mut private = BTreeMap::new();
        for record in &records {
            let (id, _) = VerifyingKey::from_jwk(&record.public)?;
            if id != record.id {
                return Err(KeysError::Records);
            }
            if record.state == KeyState::Retired {
                continue;
            }
            let pem = data.get(&file(&id)).ok_or(KeysError::Private)?;
            let pem = String::from_utf8(pem.0.clone()).map_err(|_| KeysError::Private)?;
            let key = SigningKey::from_pem(&id, &pem)?;
            // What members are told must be what is signed with.
            if key.public().to_jwk(&id) != record.public {
                return Err(KeysError::Private);
            }
            private.insert(id, pem);
        }
        Ok(Self { records, private })
    }

    /// What [`Self::read`] reads.
    #[must_use]
    pub fn to_data(&self) -> BTreeMap<String, ByteString> {
        let records = serde_json::to_vec(&self.records).unwrap_or_default();
        let private = self
            .private
            .iter()
            .map(|(id, pem)| (file(id), ByteString(pem.clone().into_bytes())));
        std::iter::once((RECORDS.to_owned(), ByteString(records)))
            .chain(private)
            .collect()
    }

    /// What is known of each key.
    #[must_use]
    pub fn records(&self) -> &[KeyRecord] {
        &self.records
    }

    /// The key that signs, if there is one.
    ///
    /// # Errors
    /// [`KeyError::Private`].
    pub fn active(&self) -> Result<Option<SigningKey>, KeyError> {
        let active = self
            .records
            .iter()
            .find(|record| record.state == KeyState::Active);
        match active.and_then(|record| Some((record, self.private.get(&record.id)?))) {
            Some((record, pem)) => SigningKey::from_pem(&record.id, pem).map(Some),
            None => Ok(None),
        }
    }

    /// What a member has to trust: every key here, for tokens of `issuer` that are meant for `audience`.
    #[must_use]
    pub fn trusted(&self, issuer: &str, audience: &str) -> Trusted {
        let keys = self
            .records
            .iter()
            .filter_map(|record| VerifyingKey::from_jwk(&record.public).ok());
        Trusted::new(issuer, audience, keys)
    }

    /// Makes the key that will sign next.
    ///
    /// # Errors
    /// [`KeysError::UnderWay`] where there is one already.
    pub fn make_next(&mut self, now: Timestamp) -> Result<(), KeysError> {
        if self.find(KeyState::Next).is_some() {
            return Err(KeysError::UnderWay);
        }
        self.add(KeyState::Next, now)
    }

    /// The next key signs from now on, and the private half of the one before is forgotten.
    ///
    /// # Errors
    /// [`KeysError::NoNext`].
    pub fn promote(&mut self, now: Timestamp) -> Result<(), KeysError> {
        if self.find(KeyState::Next).is_none() {
            return Err(KeysError::NoNext);
        }
        for record in &mut self.records {
            record.state = match record.state {
                KeyState::Next => KeyState::Active,
                KeyState::Active => {
                    self.private.remove(&record.id);
                    KeyState::Retired
                }
                KeyState::Retired => continue,
            };
            record.since = now;
            record.forced = false;
        }
        Ok(())
    }

    /// The next key is to sign although some members do not accept it.
    ///
    /// # Errors
    /// [`KeysError::NoNext`].
    pub fn force(&mut self) -> Result<(), KeysError> {
        let next = |record: &&mut KeyRecord| record.state == KeyState::Next;
        let next = self
            .records
            .iter_mut()
            .find(next)
            .ok_or(KeysError::NoNext)?;
        next.forced = true;
        Ok(())
    }

    /// Forgets retired keys by id; one that is not retired stays.
    pub fn forget(&mut self, ids: &[String]) {
        self.records
            .retain(|record| record.state != KeyState::Retired || !ids.contains(&record.id));
    }

    fn find(&self, state: KeyState) -> Option<&KeyRecord> {
        self.records.iter().find(|record| record.state == state)
    }

    fn add(&mut self, state: KeyState, now: Timestamp) -> Result<(), KeysError> {
        let key = SigningKey::generate(now.as_second())?;
        self.private.insert(key.kid().to_owned(), key.to_pem()?);
        self.records.push(KeyRecord {
            id: key.kid().to_owned(),
            state,
            made: now,
            since: now,
            public: key.public().to_jwk(key.kid()),
            forced: false,
        });
        Ok(())
    }
}

fn file(id: &str) -> String {
    format!("{id}.pem")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn states(keys: &SigningKeys) -> Vec<KeyState> {
        keys.records().iter().map(|record| record.state).collect()
    }

    #[test]
    fn a_rotation_goes_through_its_states_and_back_from_the_secret() {
        let mut keys = SigningKeys::first(at(0)).unwrap();
        let again = |keys: &SigningKeys| {
            let read = SigningKeys::read(&keys.to_data()).unwrap();
            assert_eq!(read.records(), keys.records());
            assert_eq!(read.private, keys.private);
            read
        };
        assert_eq!(keys.promote(at(1)), Err(KeysError::NoNext));
        assert_eq!(keys.force(), Err(KeysError::NoNext));
        keys.make_next(at(1)).unwrap();
        assert_eq!(keys.make_next(at(2)), Err(KeysError::UnderWay));
        let old = keys.active().unwrap().unwrap();
        keys.force().unwrap();
        let mut keys = again(&keys);
        assert!(keys.records()[1].forced);
        keys.promote(at(3)).unwrap();
        assert_eq!(states(&keys), [KeyState::Retired, KeyState::Active]);
        assert_ne!(keys.active().unwrap().unwrap().kid(), old.kid());
        // The private half of the old one is nowhere any more; members still know its public one.
        let data = keys.to_data();
        assert_eq!(data.len(), 2);
        assert!(!data.contains_key(&file(old.kid())));
        assert!(keys.trusted("i", "a").key(old.kid()).is_some());
        let mut keys = again(&keys);
        let active = keys.active().unwrap().unwrap().kid().to_owned();
        keys.forget(&[old.kid().to_owned(), active.clone()]);
        assert_eq!(states(&keys), [KeyState::Active]);
        assert!(keys.trusted("i", "a").key(old.kid()).is_none());
        assert!(keys.trusted("i", "a").key(&active).is_some());
    }

    #[test]
    fn what_is_not_whole_is_no_set_of_keys() {
        let keys = SigningKeys::first(at(0)).unwrap();
        let data = keys.to_data();
        let id = keys.records()[0].id.clone();
        let other = SigningKeys::first(at(0)).unwrap();
        let mut missing = data.clone();
        missing.remove(&file(&id));
        let mut mixed = data.clone();
        let pem = other.private.values().next().unwrap().clone();
        mixed.insert(file(&id), ByteString(pem.into_bytes()));
        let mut broken = data.clone();
        broken.insert(RECORDS.into(), ByteString(b"[{}]".to_vec()));
        for (data, error) in [
            (BTreeMap::new(), KeysError::Records),
            (broken, KeysError::Records),
            (missing, KeysError::Private),
            (mixed, KeysError::Private),
        ] {
            assert_eq!(SigningKeys::read(&data).err(), Some(error));
        }
    }
}
