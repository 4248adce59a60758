//! Who is asking, and may they: tokens and their cache, passwords, users, global roles.
//!
//! This room knows no HTTP: it takes the value of an `Authorization` header and gives an identity or an error.

pub mod authenticate;
pub mod cache;
pub mod clock;
pub mod federated;
pub mod password;
pub mod roles;
pub mod token;
pub mod users;

pub use authenticate::{Authentication, AuthenticationError, GrantError, Identity, TokenPair};
pub use cache::{CacheLimits, MemoryCache, TokenCache};
pub use clock::{Clock, SystemClock};
pub use federated::{
    HostTrust, Offer, Signer, SigningKey, SigningKeys, Trusted, follow_host_trust,
    follow_signing_keys,
};
pub use roles::{Authorizer, Decision, GlobalRoles};
pub use token::{TokenError, TokenType, Tokens};
pub use users::Users;
