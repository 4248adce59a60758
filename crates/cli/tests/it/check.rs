//! `kah config check`.

use crate::fleet::{finish, program};

#[test]
fn unknown_keys_are_reported_with_a_suggestion() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let path = folder.path().join("kubesphere.yaml");
        std::fs::write(&path, text).unwrap();
        finish(
            std::process::Command::new(program())
                .args(["config", "check"])
                .arg(&path),
        )
    };
    let good = check("authentication:\n  jwtSecret: \"abc\"\n");
    assert_eq!(good.code, 0, "{good:?}");
    let typo = check(
        "authentication:\n  jwtSecret: \"abc\"\n  oauthOptions:\n    accessTokenMaxage2: 0\n",
    );
    assert_eq!(typo.code, 3, "{typo:?}");
    assert!(
        typo.stdout.contains("accessTokenMaxage2") && typo.stdout.contains("accessTokenMaxAge"),
        "{typo:?}"
    );
    let broken = check("authentication: [\n");
    assert_eq!(broken.code, 3, "{broken:?}");
    assert!(
        !format!("{good:?}{typo:?}").contains("abc"),
        "a secret was printed"
    );
}
