//! The fleet: which clusters there are, how each is reached, and why one cannot be.
//!
//! * [`Registry`] follows the Cluster objects and holds one [`Member`] for each.
//! * [`Member::forward`] sends a caller's request on, as multicluster.md §7 says, and names the reason where the member refuses.
//! * [`doctor`] turns an answer into findings for people.

pub mod doctor;
pub mod enrol;
mod forward;
pub mod guard;
mod host;
pub mod join;
mod kubeconfig;
mod kubernetes;
mod location;
mod member;
mod peek;
mod probe;
mod refusal;
mod registry;
pub mod restore;
mod target;
pub mod tower;
pub mod tunnel;
pub mod validation;

pub use forward::{
    CallerCredential, ForwardError, Hop, MemberRefusal, REFUSAL_HEADER, with_causes,
};
pub use host::Host;
pub use kah_api::access::AccessCode;
pub use kubeconfig::{Kubeconfig, SettingsError};
pub use kubernetes::fault_of;
pub use location::Form;
pub use member::{Member, Readiness, Route};
pub use probe::Answer;
pub use refusal::{Origin, code_of_answer, code_of_fault};
pub use registry::Registry;
