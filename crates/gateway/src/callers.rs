//! Who callers are and what they may: the gateway's side of `iam`.

use std::net::IpAddr;

use http::HeaderMap;
use kah_api::{config::Configuration, path::Target};

#[derive(Clone)]
pub struct Callers;
#[derive(Clone)]
pub(crate) struct Caller;
impl Caller {
    pub(crate) fn name(&self) -> &str { todo!() }
    pub(crate) fn is_anonymous(&self) -> bool { todo!() }
}
pub(crate) struct Tokens { pub access: String, pub refresh: String, pub expires_in: Option<u64> }
pub(crate) enum GrantError { Invalid(String), Limited(String), Fault(String) }
pub(crate) struct Profile { pub email: String, pub locale: String }
pub(crate) fn needs_no_role(_path: &str) -> bool { todo!() }
impl Callers {
    pub(crate) fn reload(&self, _c: &Configuration) -> Result<(), String> { todo!() }
    pub(crate) async fn authenticate(&self, _h: &HeaderMap) -> Result<Caller, String> { todo!() }
    pub(crate) fn authorize(&self, _c: &Caller, _t: &Target) -> Result<(), String> { todo!() }
    pub(crate) async fn password(&self, _u: &str, _p: &str, _c: Option<IpAddr>, _a: Option<&str>) -> Result<Tokens, GrantError> { todo!() }
    pub(crate) async fn refresh(&self, _t: &str) -> Result<Tokens, GrantError> { todo!() }
    pub(crate) fn profile(&self, _n: &str) -> Option<Profile> { todo!() }
    pub(crate) async fn revoke(&self, _n: &str) -> Result<(), String> { todo!() }
}
