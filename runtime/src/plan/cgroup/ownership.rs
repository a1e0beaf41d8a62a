//! Who owns the cgroup: config-linux.md, "Cgroup ownership".

use std::path::Path;

use crate::plan::mount_options::Options;
use crate::plan::namespaces::Namespaces;
use crate::plan::written_mount::clean;
use crate::spec::{IdMapping, NamespaceType, Spec};

/// A user of the host to whom a cgroup is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group, if that changes too.
    pub gid: Option<u32>,
}

/// Who is to own the cgroup; none where that is root, whose it is anyway. Only on
/// cgroup v2 this is safe, which whoever does it sees.
pub(in crate::plan) fn owner(spec: &Spec, namespaces: &Namespaces) -> Option<Owner> {
    let uid = of_process(spec, namespaces)?;
    (uid != 0).then_some(Owner { uid, gid: None })
}

/// Who is to own what is delegated of a cgroup (`run.oci.delegate-cgroup`): if
/// the container's process may write in it, that one's user, else the
/// container's root.
///
/// # Errors
/// A word on why nobody knows: config.json has no mapping of root in the
/// container's user namespace.
pub(in crate::plan) fn of_delegated(
    spec: &Spec,
    namespaces: &Namespaces,
) -> std::result::Result<Option<Owner>, &'static str> {
    if !namespaces.contains(NamespaceType::User) {
        return Ok(owner(spec, namespaces));
    }
    let linux = spec.linux.as_ref();
    let root = |maps: &[IdMapping]| mapped(0, maps);
    let ids = linux.map(|linux| (root(&linux.uid_mappings), root(&linux.gid_mappings)));
    let Some((Some(uid), gid)) = ids else {
        return Err("config.json maps no root of the container's user namespace");
    };
    let uid = of_process(spec, namespaces).unwrap_or(uid);
    Ok((uid != 0 || gid.is_some_and(|gid| gid != 0)).then_some(Owner { uid, gid }))
}

/// The host's uid of the container's process, if the cgroup is to be that
/// user's: the container has a new cgroup namespace and mounts its cgroup to
/// write in it.
fn of_process(spec: &Spec, namespaces: &Namespaces) -> Option<u32> {
    let writable = |mount: &crate::spec::Mount| {
        mount.source.as_deref() == Some("cgroup")
            && clean(Path::new(&mount.destination)) == Path::new("/sys/fs/cgroup")
            && !Options::parse(&mount.options).of_mount().read_only()
    };
    if !namespaces.creates(NamespaceType::Cgroup) || !spec.mounts.iter().any(writable) {
        return None;
    }
    let uid = spec.process.as_ref()?.user.uid;
    match namespaces.contains(NamespaceType::User) {
        true => mapped(uid, &spec.linux.as_ref()?.uid_mappings),
        false => Some(uid),
    }
}

/// The host's id of a container's, if it has one.
fn mapped(id: u32, mappings: &[IdMapping]) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let above = id.checked_sub(mapping.container_id)?;
        (above < mapping.size).then(|| mapping.host_id.checked_add(above))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_belongs_to_the_process_that_may_write_in_it() {
        let mount =
            r#""mounts":[{"destination":"/sys/fs/cgroup/","type":"cgroup","source":"cgroup"}]"#;
        let read_only = mount.replace("\"source\"", "\"options\":[\"ro\"],\"source\"");
        let all_read_only = mount.replace("\"source\"", "\"options\":[\"rro\"],\"source\"");
        let bound = mount.replace("\"source\":\"cgroup\"", "\"source\":\"/sys/fs/cgroup\"");
        let maps = r#""uidMappings":[{"containerID":0,"hostID":5000,"size":10},{"containerID":20,"hostID":7000,"size":1}],
            "gidMappings":[{"containerID":0,"hostID":5000,"size":10}]"#;
        let both = r#"{"type":"cgroup"},{"type":"user"}"#;
        for (name, uid, mount, namespaces, maps, expected) in [
            ("root in a user namespace", 0, mount, both, maps, Some(5000)),
            ("another", 3, mount, both, maps, Some(5003)),
            ("of the second range", 20, mount, both, maps, Some(7000)),
            ("unmapped", 11, mount, both, maps, None),
            ("read-only", 0, &read_only, both, maps, None),
            ("all read-only", 0, &all_read_only, both, maps, None),
            ("a bind", 0, &bound, both, maps, None),
            ("no mount", 0, r#""mounts":[]"#, both, maps, None),
            (
                "the host's cgroup namespace",
                0,
                mount,
                r#"{"type":"user"}"#,
                maps,
                None,
            ),
            (
                "a joined one",
                0,
                mount,
                r#"{"type":"cgroup","path":"/c"},{"type":"user"}"#,
                maps,
                None,
            ),
            (
                "an unknown user namespace",
                0,
                mount,
                r#"{"type":"cgroup"},{"type":"user","path":"/u"}"#,
                "",
                None,
            ),
            (
                "a user of the host",
                9,
                mount,
                r#"{"type":"cgroup"}"#,
                "",
                Some(9),
            ),
            (
                "the host's root",
                0,
                mount,
                r#"{"type":"cgroup"}"#,
                "",
                None,
            ),
        ] {
            let maps = match maps {
                "" => String::new(),
                maps => format!(",{maps}"),
            };
            let json = format!(
                r#"{{"process":{{"user":{{"uid":{uid},"gid":0}}}},{mount},"linux":{{"namespaces":[{namespaces}]{maps}}}}}"#
            );
            let spec = Spec::parse(json.as_bytes()).unwrap();
            let namespaces = Namespaces::plan(spec.linux.as_ref().unwrap()).unwrap();
            let uid = owner(&spec, &namespaces).map(|owner| owner.uid);
            assert_eq!(uid, expected, "{name}");
        }
    }

    #[test]
    fn what_is_delegated_belongs_to_the_containers_root() {
        let mount = r#"{"destination":"/sys/fs/cgroup","source":"cgroup"}"#;
        let maps = r#""uidMappings":[{"containerID":0,"hostID":5000,"size":9}],
            "gidMappings":[{"containerID":0,"hostID":6000,"size":9}]"#;
        let unknown = Err("config.json maps no root of the container's user namespace");
        let owner = |uid, gid| Ok(Some(Owner { uid, gid }));
        for (name, uid, mounts, namespaces, maps, expected) in [
            ("the host's", 0, "", r#"{"type":"cgroup"}"#, "", Ok(None)),
            (
                "a user namespace",
                3,
                "",
                r#"{"type":"user"}"#,
                maps,
                owner(5000, Some(6000)),
            ),
            (
                "a process that may write in it",
                3,
                mount,
                r#"{"type":"user"},{"type":"cgroup"}"#,
                maps,
                owner(5003, Some(6000)),
            ),
            (
                "one of the host's users",
                3,
                mount,
                r#"{"type":"cgroup"}"#,
                "",
                owner(3, None),
            ),
            (
                "a joined user namespace",
                0,
                "",
                r#"{"type":"user","path":"/u"}"#,
                "",
                unknown,
            ),
            (
                "the same with its ids",
                0,
                "",
                r#"{"type":"user","path":"/u"}"#,
                maps,
                owner(5000, Some(6000)),
            ),
            (
                "root of the host",
                0,
                "",
                r#"{"type":"user"}"#,
                r#""uidMappings":[{"containerID":0,"hostID":0,"size":9}],
                    "gidMappings":[{"containerID":0,"hostID":0,"size":9}]"#,
                Ok(None),
            ),
        ] {
            let maps = match maps {
                "" => String::new(),
                maps => format!(",{maps}"),
            };
            let json = format!(
                r#"{{"process":{{"user":{{"uid":{uid},"gid":0}}}},"mounts":[{mounts}],"linux":{{"namespaces":[{namespaces}]{maps}}}}}"#
            );
            let spec = Spec::parse(json.as_bytes()).unwrap();
            let namespaces = Namespaces::plan(spec.linux.as_ref().unwrap()).unwrap();
            assert_eq!(of_delegated(&spec, &namespaces), expected, "{name}");
        }
    }
}
