use std::time::Duration;

use super::*;

fn at(days: u64) -> Timestamp {
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    start
        .saturating_add(DAY.saturating_mul(u32::try_from(days).unwrap()))
        .unwrap()
}

fn ends(pem: &str) -> i64 {
    let der = certificates::parse(pem).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    parsed.validity().not_after.timestamp()
}

#[test]
fn a_folder_keeps_the_authority_and_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let first = Authority::open(folder.path(), "ca", at(0)).unwrap();
    let again = Authority::open(folder.path(), "ca", at(1)).unwrap();
    assert_eq!(first.ca_pem(), again.ca_pem());
    assert_eq!(
        first.token_key().public_pem(),
        again.token_key().public_pem()
    );
    #[cfg(unix)]
    for key in ["ca.key", "sa.key"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.path().join(key))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    std::fs::remove_file(folder.path().join("ca.key")).unwrap();
    let error = Authority::open(folder.path(), "ca", at(1)).unwrap_err();
    assert!(matches!(error, AuthorityError::Incomplete { .. }));
}

#[test]
fn certificates_are_renewed_before_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let first = Authority::open(folder.path(), "ca", at(0)).unwrap();
    let end = ends(first.ca_pem());
    assert_eq!(end, at(3650).as_second());
    let later = Authority::open(folder.path(), "ca", at(3630)).unwrap();
    assert!(ends(later.ca_pem()) > end);
    let issued = later
        .server_certificate(&["kah.test".to_owned(), "10.0.0.1".to_owned()], at(0))
        .unwrap();
    assert_eq!(
        ends(&issued.certificate),
        at(0).as_second() + i64::try_from(CERTIFICATE_LIFE.as_secs()).unwrap()
    );
    assert_eq!(CERTIFICATE_LIFE, Duration::from_secs(365 * 86400));
}

#[test]
fn secrets_are_not_shown() {
    let authority = Authority::in_memory("ca", at(0)).unwrap();
    let issued = authority.client_certificate("u", &[], at(0)).unwrap();
    let shown = format!("{authority:?} {issued:?} {:?}", authority.token_key());
    assert!(!shown.contains("PRIVATE"));
    let config = authority
        .admin_kubeconfig("host", "https://127.0.0.1:1", at(0))
        .unwrap();
    let config: serde_json::Value = serde_saphyr::from_str(&config).unwrap();
    assert_eq!(
        config["clusters"][0]["cluster"]["server"],
        "https://127.0.0.1:1"
    );
    assert_eq!(config["current-context"], "host");
}
