//! The way to members, and to the local kube-apiserver.

use crate::room::Room;

#[tokio::test]
async fn each_form_reaches_the_right_cluster() {
    let room = Room::host().await;
    for (path, arrives) in [
        ("/kapis/clusters/m1/version", "/kapis/version"),
        (
            "/apis/clusters/m1/apps/v1/deployments?limit=1",
            "/apis/apps/v1/deployments?limit=1",
        ),
        ("/api/clusters/m1/v1/pods", "/api/v1/pods"),
        ("/clusters/m1/api/v1/pods", "/api/v1/pods"),
        ("/clusters/m1/openapi/v3", "/openapi/v3"),
        ("/clusters/m1/apis", "/apis"),
        ("/clusters/m1/healthz", "/healthz"),
        ("/clusters/m1/version", "/kapis/version"),
    ] {
        let answer = room.get(path, "weak").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(room.member.last().target, arrives, "{path}");
        assert_eq!(room.member.last().headers["authorization"], "Bearer weak");
        assert!(!answer.headers.contains_key("set-cookie"));
    }
    assert_eq!(room.kube.count(), 0);
    // kubectl asks the server of its kubeconfig for Kubernetes' version.
    assert_eq!(
        room.get("/clusters/m1/version", "weak").await.json()["minor"],
        "35"
    );
    for (path, arrives) in [
        ("/clusters/host/api/v1/pods", "/api/v1/pods"),
        (
            "/apis/clusters/host/apps/v1/deployments",
            "/apis/apps/v1/deployments",
        ),
        ("/clusters/host/version", "/version"),
        ("/clusters/host/openapi/v3", "/openapi/v3"),
        ("/api/v1/pods?watch=1", "/api/v1/pods?watch=1"),
    ] {
        assert_eq!(room.get(path, "admin").await.status, 200, "{path}");
        assert_eq!(room.kube.last().target, arrives, "{path}");
        assert_eq!(
            room.kube.last().headers["authorization"],
            "Bearer server-account"
        );
    }
    assert!(
        room.get("/kapis/clusters/host/version", "admin")
            .await
            .json()["gitVersion"]
            .is_string()
    );
}

#[tokio::test]
async fn a_cluster_that_is_not_there() {
    let room = Room::host().await;
    let answer = room.get("/kapis/clusters/foo/version", "weak").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (400, "application/json")
    );
    assert_eq!(
        answer.body,
        "{\n  \"ErrStatus\": {\n    \"metadata\": {},\n    \"status\": \"Failure\",\n    \"message\": \"cluster foo not exists\",\n    \"reason\": \"BadRequest\",\n    \"code\": 400\n  }\n}"
    );
}

#[tokio::test]
async fn r9_a_member_out_of_reach_is_told_with_its_cause() {
    let room = Room::host().await;
    for (name, code, cause) in [
        ("sick", 503, "MemberNotReady"),
        ("dead", 502, "MemberUnreachable"),
    ] {
        let answer = room
            .get(&format!("/clusters/{name}/api/v1/pods"), "weak")
            .await;
        assert_eq!(answer.status, code, "{answer:?}");
        assert_eq!(answer.header("x-kubeaihub-member-refusal"), cause);
        assert_eq!(answer.header("retry-after"), "5");
        let status = answer.json();
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["details"]["causes"][0]["reason"], cause);
        assert!(
            status["message"].as_str().unwrap().contains(name),
            "{status}"
        );
    }
    assert_eq!(room.member.count(), 0);
}

#[tokio::test]
async fn a_members_refusal_passes_to_the_letter_and_is_named() {
    let room = Room::host().await;
    let answer = room.get("/kapis/clusters/m1/a.io/v1/refuse", "weak").await;
    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.body,
        "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"Unauthorized: token not found in cache\",\"reason\":\"Unauthorized\",\"code\":401}\n"
    );
    assert_eq!(
        answer.header("x-kubeaihub-member-refusal"),
        "TokenNotInCache"
    );
    // The host's own refusal is not a member's.
    let own = room
        .get("/kapis/clusters/m1/a.io/v1/refuse", "unknown")
        .await;
    assert_eq!(own.header("x-kubeaihub-member-refusal"), "");
}

#[tokio::test]
async fn r15_redirects_stay_with_their_member() {
    let room = Room::host().await;
    assert_eq!(
        room.get("/kapis/clusters/m1/a.io/v1/here", "weak")
            .await
            .header("location"),
        "/kapis/clusters/m1/version"
    );
    assert_eq!(
        room.get("/clusters/m1/kapis/a.io/v1/here", "weak")
            .await
            .header("location"),
        "/clusters/m1/kapis/version"
    );
    assert_eq!(
        room.get("/kapis/clusters/m1/a.io/v1/away", "weak")
            .await
            .status,
        502
    );
}

#[tokio::test]
async fn s1_nobody_in_particular_reaches_a_member_only_where_no_role_is_needed() {
    let room = Room::host().await;
    for path in [
        "/kapis/clusters/m1/iam.kubesphere.io/v1alpha2/users",
        "/clusters/m1/api/v1/pods",
        "/clusters/m1/version",
        "/api/clusters/m1/v1/pods",
    ] {
        let answer = room.get(path, "").await;
        assert_eq!(
            (answer.status.as_u16(), room.member.count()),
            (401, 0),
            "{path}"
        );
    }
    assert_eq!(room.get("/kapis/clusters/m1/version", "").await.status, 200);
    assert!(!room.member.last().headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_member_serves_no_cluster_but_itself() {
    let room = Room::member().await;
    for path in [
        "/kapis/clusters/x/iam.kubesphere.io/v1alpha2/users",
        "/kapis/clusters/m1/version",
        "/apis/clusters/m1/apps/v1/deployments",
        "/clusters/m1/api/v1/pods",
        "/clusters/m1/version",
        "/clusters/m1/openapi/v2",
    ] {
        let answer = room.get(path, "admin").await;
        assert_eq!(answer.status, 404, "{path}");
    }
    assert_eq!((room.kube.count(), room.member.count()), (0, 0));
}
