use std::collections::BTreeMap;

use serde_json::json;

use super::super::{Place, kind, wanted};
use super::*;

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

fn owner() -> Owner {
    Owner::new("host-1")
}

fn wants(kind: &Kind, source: Value) -> Wanted {
    wants_at(kind, source, "m", &[])
}

fn wants_at(kind: &Kind, source: Value, name: &str, labels: &[(&str, &str)]) -> Wanted {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let place = Place {
        name,
        labels: &labels,
        passwords: true,
    };
    wanted(kind, &object(source), &owner(), place)
}

fn copied(wanted: Wanted) -> Value {
    match wanted {
        Wanted::Copy(copy) => serde_json::to_value(copy).unwrap(),
        other => panic!("no copy: {other:?}"),
    }
}

const HASH: &str = "$2a$10$mAfEbk/YCKGFKjubA/SCVuGDbQuz6WvWezwxkM53g.42cwQsYV93.";

fn user(password: &str) -> Value {
    json!({
        "apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "User",
        "metadata": {
            "name": "ann", "uid": "u", "resourceVersion": "9",
            "labels": {"kubefed.io/managed": "false", "a": "b", "hub.kubeaihub.io/x": "y"},
            "annotations": {"iam.kubesphere.io/granted-clusters": "m"},
            "finalizers": ["finalizers.kubesphere.io/users"],
        },
        "spec": {"email": "", "groups": null, "password": password},
        "status": {"state": "Active"},
    })
}

#[test]
fn h11_reserved_names_and_groups_are_not_propagated() {
    let users = kind("User").unwrap();
    let mut source = user(HASH);
    source["spec"]["groups"] = json!(["devs", "system:masters", "system:nodes", "systematic"]);
    let copy = copied(wants(users, source.clone()));
    assert_eq!(copy["spec"]["groups"], json!(["devs", "systematic"]));
    for kind in [users, kind("Group").unwrap()] {
        source["metadata"]["name"] = "system:masters".into();
        assert!(
            matches!(wants(kind, source.clone()), Wanted::AsItIs(reason) if reason.contains("reserved"))
        );
    }
}

#[test]
fn a_copy_carries_what_the_table_says() {
    let users = kind("User").unwrap();
    assert_eq!(
        copied(wants(users, user(HASH))),
        json!({
            "apiVersion": "iam.kubesphere.io/v1alpha2", "kind": "User",
            "metadata": {"name": "ann", "labels": {"a": "b", "kubefed.io/managed": "true", "hub.kubeaihub.io/host": "host-1"}},
            "spec": {"email": "", "password": HASH},
            "status": {"state": "Active"},
        })
    );
    let annotations = json!({
        "kubesphere.io/creator": "system",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        "hub.kubeaihub.io/x": "y",
    });
    for (name, carried) in [
        ("GlobalRole", json!({"kubesphere.io/creator": "system"})),
        (
            "GlobalRoleBinding",
            json!({"kubesphere.io/creator": "system"}),
        ),
        ("WorkspaceRole", Value::Null),
        ("WorkspaceRoleBinding", Value::Null),
        ("Group", Value::Null),
        ("GroupBinding", Value::Null),
    ] {
        let source = json!({
            "metadata": {"name": "x", "annotations": annotations}, "spec": {}, "status": {}, "rules": [], "other": 1,
            "roleRef": {}, "subjects": [], "groupRef": {}, "users": [],
        });
        let kind = kind(name).unwrap();
        let copy = copied(wants(kind, source));
        assert_eq!(copy["kind"], name);
        assert_eq!(copy["metadata"]["annotations"], carried, "{name}");
        let fields: BTreeSet<&str> = copy
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let expected = ["apiVersion", "kind", "metadata"];
        let expected = expected.iter().chain(kind.fields).copied().collect();
        assert_eq!(fields, expected, "{name}");
    }
}

#[test]
fn a_password_in_clear_text_is_not_copied() {
    let users = kind("User").unwrap();
    for (password, travels) in [
        (HASH, true),
        ("", true),
        ("P@88w0rd", false),
        (&HASH[..59], false),
        ("$2a$10$short", false),
    ] {
        let wanted = wants(users, user(password));
        assert_eq!(matches!(wanted, Wanted::Copy(_)), travels, "{password}");
        if let Wanted::AsItIs(reason) = wanted {
            assert!(!reason.contains(password), "{reason}");
        }
    }
    let mut without = user(HASH);
    without["spec"].as_object_mut().unwrap().remove("password");
    assert!(matches!(wants(users, without), Wanted::Copy(_)));
    let mut leaving = user("P@88w0rd");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(wants(users, leaving), Wanted::Nothing);
}

#[test]
fn a_workspace_goes_where_its_template_says_as_it_says() {
    let templates = kind("WorkspaceTemplate").unwrap();
    let template = |placement: Value, overrides: Value| {
        json!({
            "apiVersion": "tenant.kubesphere.io/v1alpha2", "kind": "WorkspaceTemplate",
            "metadata": {"name": "demo", "labels": {"of": "template"}, "annotations": {"a": "b"}},
            "spec": {
                "template": {"metadata": {"labels": {"x": "y"}}, "spec": {"manager": "ann", "networkIsolation": false}},
                "placement": placement,
                "overrides": overrides,
            },
        })
    };
    let all = json!({"clusterSelector": {}});
    assert_eq!(
        copied(wants(templates, template(all.clone(), json!([])))),
        json!({
            "apiVersion": "tenant.kubesphere.io/v1alpha1", "kind": "Workspace",
            "metadata": {"name": "demo", "labels": {"x": "y", "kubefed.io/managed": "true", "hub.kubeaihub.io/host": "host-1"}},
            "spec": {"manager": "ann", "networkIsolation": false},
        })
    );
    let overrides = json!([
        {"clusterName": "other", "clusterOverrides": [{"path": "/spec/manager", "value": "eve"}]},
        {"clusterName": "m", "clusterOverrides": [
            {"path": "/spec/manager", "value": "bob"}, {"op": "remove", "path": "/spec/networkIsolation"},
            {"op": "add", "path": "/metadata/labels/z", "value": "w"},
        ]},
    ]);
    let copy = copied(wants(templates, template(all.clone(), overrides)));
    assert_eq!(copy["spec"], json!({"manager": "bob"}));
    assert_eq!(copy["metadata"]["labels"]["z"], "w");

    let wrong =
        json!([{"clusterName": "m", "clusterOverrides": [{"path": "/spec/none/x", "value": 1}]}]);
    let misspelt = json!({"clusterSelector": {"matchExpressions": [{"key": "z", "operator": "in", "values": ["a"]}]}});
    let whole = |op: &str, path: &str, value: Value| {
        let changes = json!([{"op": op, "path": path, "value": value}]);
        json!([{"clusterName": "m", "clusterOverrides": changes}])
    };
    for (placement, overrides) in [
        (all.clone(), wrong),
        (all.clone(), whole("replace", "", json!("x"))),
        (all.clone(), whole("replace", "", json!([]))),
        (all.clone(), whole("replace", "/spec", json!(1))),
        (all, whole("remove", "/spec", Value::Null)),
        (misspelt, json!([])),
        (json!("everywhere"), json!([])),
    ] {
        let wanted = wants(templates, template(placement.clone(), overrides));
        assert!(
            matches!(wanted, Wanted::AsItIs(_)),
            "{placement}: {wanted:?}"
        );
    }
    for (placement, placed) in [
        (json!({"clusters": [{"name": "m"}]}), true),
        (
            json!({"clusters": [{"name": "n"}], "clusterSelector": {}}),
            false,
        ),
        (
            json!({"clusterSelector": {"matchLabels": {"zone": "a"}}}),
            true,
        ),
        (
            json!({"clusterSelector": {"matchLabels": {"zone": "b"}}}),
            false,
        ),
        (json!({}), false),
    ] {
        let source = template(placement.clone(), json!([]));
        let wanted = wants_at(templates, source, "m", &[("zone", "a")]);
        assert_eq!(matches!(wanted, Wanted::Copy(_)), placed, "{placement}");
        assert_eq!(wanted == Wanted::Nothing, !placed, "{placement}");
    }
}

/// What a member holds after a copy was applied to it.
fn applied(wanted: &Wanted) -> DynamicObject {
    let Wanted::Copy(copy) = wanted else {
        panic!("no copy")
    };
    let mut live = (**copy).clone();
    let keys = |map: &Option<BTreeMap<String, String>>| -> Map<String, Value> {
        let names = map.iter().flatten().map(|(name, _)| name);
        names.map(|name| (format!("f:{name}"), json!({}))).collect()
    };
    let entry = json!([{
        "manager": FIELD_MANAGER, "operation": "Apply", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": keys(&live.metadata.labels), "f:annotations": keys(&live.metadata.annotations)}},
    }]);
    live.metadata.managed_fields = serde_json::from_value(entry).unwrap();
    live.metadata.uid = Some("live".into());
    live
}

#[test]
fn what_is_equal_is_not_written_and_what_is_not_is() {
    let users = kind("User").unwrap();
    let wanted = wants(users, user(HASH));
    let decide = |live: &DynamicObject| decide(users, &wanted, Some(live), &owner(), Ending::Whole);
    let live = applied(&wanted);
    assert_eq!(decide(&live), Action::Nothing);

    type Change = fn(&mut DynamicObject);
    let changes: [(&str, Change, bool); 12] = [
        (
            "an empty list",
            |live| live.data["spec"]["groups"] = json!([]),
            true,
        ),
        (
            "a label of others",
            |live| label(live, "o", Some("t")),
            true,
        ),
        (
            "an annotation of others",
            |live| {
                live.metadata.annotations = Some(BTreeMap::from([("o".into(), "t".into())]));
            },
            true,
        ),
        (
            "a finalizer",
            |live| live.metadata.finalizers = Some(vec!["f".into()]),
            true,
        ),
        (
            "another password",
            |live| live.data["spec"]["password"] = json!("other"),
            false,
        ),
        (
            "a group that the host did not give",
            |live| live.data["spec"]["groups"] = json!(["admins"]),
            false,
        ),
        (
            "disabled",
            |live| live.data["status"]["state"] = json!("Disabled"),
            false,
        ),
        ("no status", |live| live.data["status"] = Value::Null, false),
        (
            "more status",
            |live| live.data["status"]["reason"] = json!("x"),
            false,
        ),
        ("a label changed", |live| label(live, "a", Some("c")), false),
        (
            "a label that the host has dropped since",
            |live| {
                let labels = live.metadata.managed_fields.as_mut().unwrap()[0]
                    .fields_v1
                    .as_mut()
                    .unwrap();
                labels.0["f:metadata"]["f:labels"]["f:old"] = json!({});
            },
            false,
        ),
        (
            "no memory of what we applied",
            |live| live.metadata.managed_fields = None,
            false,
        ),
    ];
    for (what, change, equal) in changes {
        let mut live = live.clone();
        change(&mut live);
        assert_eq!(decide(&live) == Action::Nothing, equal, "{what}");
    }
}

fn label(live: &mut DynamicObject, name: &str, value: Option<&str>) {
    let labels = live.metadata.labels.get_or_insert_default();
    match value {
        Some(value) => labels.insert(name.into(), value.into()),
        None => labels.remove(name),
    };
}

#[test]
fn who_keeps_an_object_decides_what_may_be_done_to_it() {
    #[derive(Debug, Clone, Copy)]
    enum Live {
        Ours,
        OursBefore,
        OfOther,
        KubeFeds,
        Own,
        Leaving,
        None,
    }
    let live = |kind: &Kind, live: Live| -> Option<DynamicObject> {
        let source = json!({"metadata": {"name": "x"}, "spec": {"template": {}, "placement": {"clusterSelector": {}}}});
        let mut object = applied(&wants(kind, source));
        match live {
            Live::None => return None,
            Live::Ours => {}
            Live::OursBefore => {
                let annotations = object.metadata.annotations.get_or_insert_default();
                annotations.insert(TAKEN_OVER_ANNOTATION.into(), "true".into());
            }
            Live::OfOther => label(&mut object, HOST_LABEL, Some("host-2")),
            Live::KubeFeds => label(&mut object, HOST_LABEL, None),
            Live::Own => object.metadata.labels = None,
            Live::Leaving => {
                object.metadata.deletion_timestamp =
                    serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
            }
        }
        Some(object)
    };
    let apply = |kind: &Kind, taken: bool| {
        let source = json!({"metadata": {"name": "x", "labels": {"new": "label"}}, "spec": {"template": {"spec": {"manager": "new"}}, "placement": {"clusterSelector": {}}}});
        let wanted = wants(kind, source);
        let Wanted::Copy(mut copy) = wanted.clone() else {
            panic!("no copy")
        };
        if taken {
            let annotations = copy.metadata.annotations.get_or_insert_default();
            annotations.insert(TAKEN_OVER_ANNOTATION.into(), "true".into());
        }
        (wanted, Action::Apply(copy))
    };
    let background = || Action::Delete(PropagationPolicy::Background);
    let (roles, templates) = (
        kind("GlobalRole").unwrap(),
        kind("WorkspaceTemplate").unwrap(),
    );
    for kind in [roles, templates] {
        for (state, expected) in [
            (Live::None, apply(kind, false)),
            (Live::Ours, apply(kind, false)),
            (Live::OursBefore, apply(kind, true)),
            (Live::KubeFeds, apply(kind, false)),
            (Live::Own, apply(kind, true)),
            (Live::Leaving, (apply(kind, false).0, Action::Nothing)),
            (
                Live::OfOther,
                (apply(kind, false).0, Action::Foreign("host-2".into())),
            ),
        ] {
            let (wanted, action) = expected;
            let live = live(kind, state);
            let decided = decide(kind, &wanted, live.as_ref(), &owner(), Ending::Whole);
            assert_eq!(decided, action, "{} {state:?}", kind.name);
            let waiting = Wanted::AsItIs("x".into());
            let decided = decide(kind, &waiting, live.as_ref(), &owner(), Ending::Whole);
            assert_eq!(decided, Action::Nothing, "{} {state:?}", kind.name);
        }
        for state in [
            Live::None,
            Live::OfOther,
            Live::KubeFeds,
            Live::Own,
            Live::Leaving,
        ] {
            let live = live(kind, state);
            let decided = decide(
                kind,
                &Wanted::Nothing,
                live.as_ref(),
                &owner(),
                Ending::Whole,
            );
            assert_eq!(decided, Action::Nothing, "{} {state:?}", kind.name);
        }
    }
    for (kind, state, ending, action) in [
        (roles, Live::Ours, Ending::KeepDependents, background()),
        (roles, Live::OursBefore, Ending::Whole, background()),
        (templates, Live::Ours, Ending::Whole, background()),
        (
            templates,
            Live::Ours,
            Ending::KeepDependents,
            Action::Delete(PropagationPolicy::Orphan),
        ),
        (templates, Live::OursBefore, Ending::Whole, Action::GiveBack),
    ] {
        let decided = decide(
            kind,
            &Wanted::Nothing,
            live(kind, state).as_ref(),
            &owner(),
            ending,
        );
        assert_eq!(decided, action, "{} {state:?} {ending:?}", kind.name);
    }
}

#[test]
fn what_applying_leaves_behind_is_taken_away() {
    let users = kind("User").unwrap();
    let copy = |spec: Value| object(json!({"metadata": {"name": "x"}, "spec": spec}));
    for (wanted, live, patch) in [
        (json!({"email": "e"}), json!({"email": "e"}), None),
        (
            json!({"email": "e"}),
            json!({"email": "e", "groups": [], "lang": ""}),
            None,
        ),
        (
            json!({"email": "e"}),
            json!({"email": "e", "groups": ["g"], "password": "p"}),
            Some(json!({"spec": {"groups": null, "password": null}})),
        ),
    ] {
        let patch = patch.map(|patch| patch.as_object().cloned().unwrap());
        assert_eq!(surplus(users, &copy(wanted), &copy(live)), patch);
    }
    // Of a user who was the member's own the password stays; what KubeFed brought does not.
    let mut own = copy(json!({"email": "e"}));
    let live = copy(json!({"email": "e", "password": "p"}));
    assert!(surplus(users, &own, &live).is_some());
    let taken_over = [(TAKEN_OVER_ANNOTATION.to_owned(), "true".to_owned())];
    own.metadata.annotations = Some(BTreeMap::from(taken_over));
    assert_eq!(surplus(users, &own, &live), None);
    let mut live = copy(json!({"email": "e"}));
    live.data["status"] = json!({"state": "Active"});
    let patch = surplus(users, &copy(json!({"email": "e"})), &live);
    assert_eq!(Value::from(patch.unwrap()), json!({"status": null}));
}
