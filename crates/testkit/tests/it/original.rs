//! The original can be started, and says what the founding story quotes.

use kah_testkit::original::{self, Original, Role};

#[test]
fn an_original_member_refuses_a_token_that_is_not_in_its_cache() {
    let Some(reference) = original::reference() else {
        eprintln!("KAH_REFERENCE is not set: the original is not started");
        return;
    };
    let member = Original::start(
        &reference,
        Role::Member,
        "2h",
        "a-secret-of-some-length-for-tests",
    )
    .expect("the original as a member");
    assert!(member.address().starts_with("http://127.0.0.1:"));
    assert!(
        member
            .log()
            .expect("its log")
            .contains("Start listening on"),
        "{}",
        member.log().unwrap_or_default()
    );
}
