//! Id mappings as crun writes them in a mount option:
//! `idmap=uids=0-1-10#10-11-10;gids=@0-0-10`.
//!
//! Each triplet is the first id on the filesystem, the first id on the host
//! and how many; `#` separates triplets. Behind `@` the second number is an id
//! of the container, which its user namespace makes one of the host.

use super::mounts::IdSource;
use crate::spec::IdMapping;

/// The mappings of `text`; `own` are the container's, of users and of groups.
pub(super) fn parse(text: &str, own: (&[IdMapping], &[IdMapping])) -> Result<IdSource, String> {
    let (mut uids, mut gids) = (Vec::new(), Vec::new());
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (mappings, own, list) = match part.split_once('=') {
            Some(("uids", list)) => (&mut uids, own.0, list),
            Some(("gids", list)) => (&mut gids, own.1, list),
            _ => return Err(format!("idmap: {part:?} is neither uids= nor gids=")),
        };
        for word in list.split('#') {
            mappings.push(mapping(word, own)?);
        }
    }
    match (uids.is_empty(), gids.is_empty()) {
        (false, false) => Ok(IdSource::Mappings { uids, gids }),
        _ => Err(format!("idmap: {text:?}: uids= and gids= come together")),
    }
}

/// One triplet.
fn mapping(word: &str, own: &[IdMapping]) -> Result<IdMapping, String> {
    let wrong = || format!("idmap: {word:?} is not FIRST-HOST-SIZE");
    let numbers: Vec<u32> = word
        .strip_prefix('@')
        .unwrap_or(word)
        .split('-')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| wrong())?;
    let [container_id, host_id, size] = numbers[..] else {
        return Err(wrong());
    };
    let host_id = if word.starts_with('@') {
        on_host(host_id, size, own).ok_or_else(|| {
            format!("idmap: {word:?} is not within one of the container's mappings")
        })?
    } else {
        host_id
    };
    Ok(IdMapping {
        container_id,
        host_id,
        size,
    })
}

/// The id on the host of the container's `id`, where one of its mappings has
/// all of the `size` ids.
fn on_host(id: u32, size: u32, own: &[IdMapping]) -> Option<u32> {
    own.iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id)?;
        let end = offset.checked_add(size)?;
        (end <= mapping.size).then(|| mapping.host_id.checked_add(offset))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Vec<IdMapping> {
        // The example of crun's manual page.
        [(0, 0, 1), (1, 2, 1000)]
            .map(|(container_id, host_id, size)| IdMapping {
                container_id,
                host_id,
                size,
            })
            .to_vec()
    }

    #[test]
    fn triplets_become_mappings() {
        for (text, uids, gids) in [
            ("uids=0-1-10;gids=0-100-10", &[(0, 1, 10)][..], (0, 100, 10)),
            (
                "uids=0-1-10#10-11-10;gids=5-6-7;",
                &[(0, 1, 10), (10, 11, 10)],
                (5, 6, 7),
            ),
            ("gids=0-0-1;uids=@1-3-10", &[(1, 4, 10)], (0, 0, 1)),
            (
                "uids=@0-0-1#1-5-2;gids=@9-1000-1",
                &[(0, 0, 1), (1, 5, 2)],
                (9, 1001, 1),
            ),
        ] {
            let plain = |list: &[IdMapping]| -> Vec<_> {
                list.iter()
                    .map(|one| (one.container_id, one.host_id, one.size))
                    .collect()
            };
            let own = own();
            let Ok(IdSource::Mappings { uids: u, gids: g }) = parse(text, (&own, &own)) else {
                panic!("{text}");
            };
            assert_eq!(plain(&u), uids, "{text}");
            assert_eq!(plain(&g), [gids], "{text}");
        }
    }

    #[test]
    fn what_is_no_mapping_is_named() {
        for (text, error) in [
            ("", r#"idmap: "": uids= and gids= come together"#),
            (
                "uids=0-1-1",
                r#"idmap: "uids=0-1-1": uids= and gids= come together"#,
            ),
            (
                "pids=0-1-1",
                r#"idmap: "pids=0-1-1" is neither uids= nor gids="#,
            ),
            (
                "uids=0-1;gids=0-1-1",
                r#"idmap: "0-1" is not FIRST-HOST-SIZE"#,
            ),
            ("uids=;gids=0-1-1", r#"idmap: "" is not FIRST-HOST-SIZE"#),
            (
                "uids=0-1-4294967296;gids=0-1-1",
                r#"idmap: "0-1-4294967296" is not FIRST-HOST-SIZE"#,
            ),
            (
                "uids=@0-0-2;gids=0-1-1",
                r#"idmap: "@0-0-2" is not within one of the container's mappings"#,
            ),
            (
                "uids=@0-4294967295-4294967295;gids=0-1-1",
                r#"idmap: "@0-4294967295-4294967295" is not within one of the container's mappings"#,
            ),
        ] {
            let own = own();
            assert_eq!(parse(text, (&own, &own)).unwrap_err(), error, "{text}");
        }
    }
}
