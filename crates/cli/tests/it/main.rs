//! The program as a person meets it: `kah` in processes of their own, real kubectl, plain HTTP.

mod check;
mod clusters;
mod fleet;
mod recovery;
mod story;
mod up;
