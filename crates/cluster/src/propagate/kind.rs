//! The kinds that are propagated: what is one of them is a row here.

use kube::api::{ApiResource, GroupVersionKind};

/// One kind: where its sources are, and what of them a copy carries beside the labels.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Of the source.
    pub name: &'static str,
    source: Row,
    copy: Row,
    /// Top-level fields that are carried, and made equal.
    pub(super) fields: &'static [&'static str],
    /// Whether annotations are carried.
    pub(super) annotations: bool,
    /// Resource of KubeFed's kind for it.
    pub(super) federated: &'static str,
    /// Whether losing it takes a person's access away. Such copies go when the member leaves; the others stay as its own.
    pub(super) gives_access: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
}

impl Row {
    const fn iam(kind: &'static str, plural: &'static str) -> Self {
        Self {
            group: "iam.kubesphere.io",
            version: "v1alpha2",
            kind,
            plural,
        }
    }

    const fn tenant(version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self {
            group: "tenant.kubesphere.io",
            version,
            kind,
            plural,
        }
    }

    fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }
}

impl Kind {
    const fn iam(
        name: &'static str,
        plural: &'static str,
        federated: &'static str,
        fields: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            source: Row::iam(name, plural),
            copy: Row::iam(name, plural),
            fields,
            annotations: false,
            federated,
            gives_access: false,
        }
    }

    const fn with_annotations(mut self) -> Self {
        self.annotations = true;
        self
    }

    const fn giving_access(mut self) -> Self {
        self.gives_access = true;
        self
    }

    /// What the host holds.
    #[must_use]
    pub fn source(&self) -> ApiResource {
        self.source.resource()
    }

    /// What members hold.
    #[must_use]
    pub fn copy(&self) -> ApiResource {
        self.copy.resource()
    }

    /// Whether annotations are carried.
    #[must_use]
    pub fn carries_annotations(&self) -> bool {
        self.annotations
    }

    /// Whether the source says into which clusters it goes.
    pub(super) fn is_placed(&self) -> bool {
        self.source != self.copy
    }
}

/// All of them, what others refer to first. In the order of multicluster.md §6.1 the columns are: kind, resource, KubeFed's resource, fields.
pub static KINDS: [Kind; 8] = [
    Kind::iam(
        "GlobalRole",
        "globalroles",
        "federatedglobalroles",
        &["rules"],
    )
    .with_annotations(),
    Kind::iam("User", "users", "federatedusers", &["spec", "status"]).giving_access(),
    Kind::iam(
        "GlobalRoleBinding",
        "globalrolebindings",
        "federatedglobalrolebindings",
        &["subjects", "roleRef"],
    )
    .with_annotations()
    .giving_access(),
    Kind {
        name: "WorkspaceTemplate",
        source: Row::tenant("v1alpha2", "WorkspaceTemplate", "workspacetemplates"),
        copy: Row::tenant("v1alpha1", "Workspace", "workspaces"),
        fields: &["spec"],
        annotations: false,
        federated: "federatedworkspaces",
        gives_access: false,
    },
    Kind::iam(
        "WorkspaceRole",
        "workspaceroles",
        "federatedworkspaceroles",
        &["rules"],
    ),
    Kind::iam(
        "WorkspaceRoleBinding",
        "workspacerolebindings",
        "federatedworkspacerolebindings",
        &["subjects", "roleRef"],
    )
    .giving_access(),
    Kind::iam("Group", "groups", "federatedgroups", &["spec"]),
    Kind::iam(
        "GroupBinding",
        "groupbindings",
        "federatedgroupbindings",
        &["groupRef", "users"],
    )
    .giving_access(),
];

/// The row of a source's kind.
#[must_use]
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
