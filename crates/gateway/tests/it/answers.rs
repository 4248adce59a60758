//! Answers as the original gives them. Every body and header here was asked of it.

use crate::room::{Room, settings};

const CACHE: &str = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"Unauthorized: token not found in cache\",\"reason\":\"Unauthorized\",\"code\":401}\n";

#[tokio::test]
async fn unauthorized_to_the_letter() {
    let room = Room::member().await;
    // Public paths too.
    for path in [
        "/kapis/version",
        "/healthz",
        "/oauth/userinfo",
        "/api/v1/nodes",
        "/nowhere",
    ] {
        let answer = room.get(path, "unknown").await;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.body, CACHE, "{path}");
        let names: Vec<_> = answer.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["content-type"], "{path}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
    let token = ("authorization", "Bearer unknown");
    let curl = room
        .ask(
            "GET",
            "/kapis/version",
            &[token, ("user-agent", "curl/8.14.1"), ("accept", "*/*")],
            "",
        )
        .await;
    assert_eq!(
        curl.body,
        "{\n  \"kind\": \"Status\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {},\n  \"status\": \"Failure\",\n  \"message\": \"Unauthorized: token not found in cache\",\n  \"reason\": \"Unauthorized\",\n  \"code\": 401\n}"
    );
    let yaml = room
        .ask(
            "GET",
            "/kapis/version",
            &[token, ("accept", "application/yaml")],
            "",
        )
        .await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert_eq!(
        yaml.body,
        "apiVersion: v1\ncode: 401\nkind: Status\nmessage: 'Unauthorized: token not found in cache'\nmetadata: {}\nreason: Unauthorized\nstatus: Failure\n"
    );
    let garbage = room
        .ask("GET", "/healthz", &[("authorization", "Foo bar")], "")
        .await;
    assert!(
        garbage
            .body
            .contains("\"message\":\"Unauthorized: %!s(\\u003cnil\\u003e)\""),
        "{}",
        garbage.body
    );
}

#[tokio::test]
async fn forbidden_to_the_letter() {
    let room = Room::host().await;
    let answer = room.get("/api/v1/namespaces", "").await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(
        answer.body,
        "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"namespaces is forbidden: User \\\"system:anonymous\\\" cannot list resource \\\"namespaces\\\" in API group \\\"\\\" at the cluster scope\",\"reason\":\"Forbidden\",\"details\":{\"kind\":\"namespaces\"},\"code\":403}\n"
    );
    let path = room.get("/oauth", "").await;
    assert!(
        path.body
            .contains("forbidden: User \\\"system:anonymous\\\" cannot GET path \\\"/oauth\\\""),
        "{}",
        path.body
    );
    assert_eq!(room.kube.count(), 0);
}

#[tokio::test]
async fn health_versions_and_configuration() {
    let room = Room::host().await;
    for (path, body) in [
        ("/healthz", "ok"),
        ("/healthz?exclude=nope", "ok"),
        ("/healthz?verbose", "[+]ping ok\nhealthz check passed\n"),
        (
            "/healthz?verbose&exclude=ping",
            "[+]ping excluded: ok\nhealthz check passed\n",
        ),
        (
            "/healthz?verbose&exclude=nope",
            "[+]ping ok\nwarn: some health checks cannot be excluded: no matches for \"nope\"\nhealthz check passed\n",
        ),
    ] {
        let answer = room.get(path, "").await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (200, body),
            "{path}"
        );
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    let version = room.get("/kapis/version", "").await;
    assert_eq!(version.header("content-type"), "application/json");
    assert!(
        version.body.starts_with("{\n \"gitVersion\": \"v3.4"),
        "{}",
        version.body
    );
    assert_eq!(version.json()["kubernetes"]["minor"], "36");
    assert_eq!(
        room.kube.last().headers["authorization"],
        "Bearer server-account"
    );
    let configz = "/kapis/config.kubesphere.io/v1alpha2/configs/configz";
    assert_eq!(
        room.get(configz, "").await.body,
        "{\n \"multicluster\": true\n}"
    );
    // Live reload: the next request sees it, sessions stay.
    room.gateway.reload(settings(false));
    assert_eq!(
        room.get(configz, "admin").await.body,
        "{\n \"multicluster\": false\n}"
    );
}

#[tokio::test]
async fn the_router_has_its_words() {
    let room = Room::host().await;
    let admin = ("authorization", "Bearer admin");
    let form = ("content-type", "application/x-www-form-urlencoded");
    for (method, path, headers, body, code, text) in [
        ("GET", "/oauth/nope", vec![], "", 404, "404: Page Not Found"),
        ("GET", "/kapis", vec![admin], "", 404, "404: Page Not Found"),
        (
            "GET",
            "/kapis/nope.io/v1/x",
            vec![admin],
            "",
            404,
            "404: Page Not Found",
        ),
        ("GET", "/foo", vec![admin], "", 404, "404 page not found\n"),
        (
            "GET",
            "/oauth/token",
            vec![],
            "",
            405,
            "405: Method Not Allowed",
        ),
        (
            "HEAD",
            "/kapis/version",
            vec![],
            "",
            405,
            "405: Method Not Allowed",
        ),
        (
            "POST",
            "/oauth/token",
            vec![("content-type", "application/json")],
            "{}",
            415,
            "415: Unsupported Media Type",
        ),
        (
            "POST",
            "/oauth/token",
            vec![("content-type", "text/plain")],
            "",
            415,
            "415: Unsupported Media Type\n\nAvailable representations: ",
        ),
        (
            "POST",
            "/oauth/token",
            vec![form, ("accept", "text/html")],
            "a=b",
            406,
            "406: Not Acceptable\n\nAvailable representations: application/json",
        ),
    ] {
        let answer = room.ask(method, path, &headers, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (code, text),
            "{method} {path}"
        );
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answer.headers.contains_key("allow"), code == 405);
        assert_eq!(
            answer.headers.contains_key("x-content-type-options"),
            path == "/foo"
        );
    }
}

#[tokio::test]
async fn tokens_are_granted_in_the_original_order_of_checks() {
    let room = Room::host().await;
    let login = "client_id=kubesphere&client_secret=kubesphere&grant_type=";
    let error = |error: &str, text: &str| {
        format!("{{\n \"error\": \"{error}\",\n \"error_description\": \"{text}\"\n}}")
    };
    for (form, code, body) in [
        ("client_id=%zz".to_owned(), 401, error("invalid_client", "invalid URL escape \\\"%zz\\\"")),
        ("client_id=x".into(), 401, error("invalid_client", "the OAuth client was not found")),
        ("client_id=kubesphere&client_secret=u".into(), 401, error("invalid_client", "invalid client credential")),
        (format!("{login}authorization_code"), 400, "{\n \"error\": \"unsupported_grant_type\"\n}".into()),
        (format!("{login}password&username=admin&password=x"), 400, error("invalid_grant", "incorrect password")),
        (format!("{login}password&username=limited"), 429, error("invalid_grant", "auth rate limit exceeded")),
        (format!("{login}refresh_token"), 400, error("invalid_grant", "token contains an invalid number of segments")),
        (format!("{login}password&username=admin&password=P@88w0rd"), 200,
            "{\n \"access_token\": \"a\",\n \"token_type\": \"Bearer\",\n \"refresh_token\": \"r\",\n \"expires_in\": 7200\n}".into()),
        (format!("{login}password&username=endless"), 200,
            "{\n \"access_token\": \"a\",\n \"token_type\": \"Bearer\",\n \"refresh_token\": \"r\"\n}".into()),
    ] {
        let answer = room.ask("POST", "/oauth/token", &[("content-type", "application/x-www-form-urlencoded")], &form).await;
        assert_eq!((answer.status.as_u16(), answer.body), (code, body), "{form}");
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    // Never from the URL.
    let url = format!("/oauth/token?{login}password&username=admin&password=P@88w0rd");
    let answer = room
        .ask(
            "POST",
            &url,
            &[("content-type", "application/x-www-form-urlencoded")],
            "a=b",
        )
        .await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn the_caller_of_a_session() {
    let room = Room::host().await;
    assert_eq!(
        room.get("/oauth/userinfo", "").await.body,
        "{\n \"error\": \"login_required\"\n}"
    );
    assert_eq!(
        room.get("/oauth/userinfo", "admin").await.body,
        "{\n \"sub\": \"admin\",\n \"name\": \"admin\",\n \"email\": \"admin@kubesphere.io\",\n \"preferred_username\": \"admin\"\n}"
    );
    assert_eq!(
        room.get("/oauth/logout", "admin").await.body,
        "{\n \"message\": \"success\"\n}"
    );
    assert_eq!(*room.callers.revoked.lock().unwrap(), ["admin"]);
    let away = room
        .get(
            "/oauth/logout?post_logout_redirect_uri=http%3A%2F%2Fconsole%2F&state=x%26y",
            "admin",
        )
        .await;
    assert_eq!(
        (away.status.as_u16(), away.header("location")),
        (302, "http://console/?state=x%26y")
    );
    assert_eq!(
        room.get(
            "/oauth/logout?post_logout_redirect_uri=http://evil/",
            "admin"
        )
        .await
        .status,
        400
    );
}
