//! Which devices a container may use: a list of rules, of which for each kind
//! of access the last one that matches decides; what none matches is denied.
//!
//! After the rules of config.json come the default ones, so that no profile
//! takes `/dev/null` from a container. v1 takes the list as a [`Policy`] and
//! the steps that lead to it; v2 as a program ([`super::device_bpf`]).

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::spec::Linux;

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whether it grants or takes.
    pub allow: bool,
    /// What it is about.
    pub devices: Devices,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.allow { "allow" } else { "deny" };
        match &self.devices {
            Devices::All => write!(f, "{verb} all devices"),
            Devices::Some(device, access) => write!(f, "{verb} device {device} {access}"),
        }
    }
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// Every access to every device; the kernel looks at nothing else in such
    /// a rule.
    All,
    /// Some accesses to some devices.
    Some(Device, Access),
}

/// A set of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Major number, or every one.
    pub major: Option<u32>,
    /// Minor number, or every one.
    pub minor: Option<u32>,
    /// Block or character.
    pub kind: Kind,
}

/// The type of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A block device.
    Block,
    /// A character device.
    Char,
}

/// Kinds of access, as the bits of `BPF_DEVCG_ACC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// To make a node.
    pub const MKNOD: Self = Self(1);
    /// All three.
    pub const ALL: Self = Self(7);

    /// Reads a composition of `r`, `w` and `m`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bits = 0;
        for letter in text.chars() {
            bits |= match letter {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => return None,
            };
        }
        (bits != 0).then_some(Self(bits))
    }

    /// The bits of `BPF_DEVCG_ACC_*`.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    fn without(self, other: Self) -> Option<Self> {
        let bits = self.0 & !other.0;
        (bits != 0).then_some(Self(bits))
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(2, "r"), (4, "w"), (1, "m")] {
            if self.0 & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// As v1's files have it: `c 1:3`.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

/// The default rules: node, major, minor. Those with a node give way to an
/// entry of `linux.devices` at the same path. As in runc 5:1 is none of them: it
/// is the host's console, while a container's own is a terminal of devpts.
const DEFAULT_DEVICES: [(Option<&str>, u32, Option<u32>); 9] = [
    (Some("/dev/null"), 1, Some(3)),
    (Some("/dev/random"), 1, Some(8)),
    (Some("/dev/full"), 1, Some(7)),
    (Some("/dev/tty"), 5, Some(0)),
    (Some("/dev/zero"), 1, Some(5)),
    (Some("/dev/urandom"), 1, Some(9)),
    // /dev/pts/N
    (None, 136, None),
    // /dev/ptmx
    (None, 5, Some(2)),
    // /dev/net/tun
    (None, 10, Some(200)),
];

/// The rules of config.json and the default ones.
///
/// # Errors
/// A rule without access, of another type than `a`, `b` or `c`, or with a
/// number that no device has.
pub fn rules(linux: &Linux) -> Result<Vec<Rule>> {
    let asked = linux
        .resources
        .as_ref()
        .map_or(&[][..], |resources| &resources.devices);
    let mut rules = Vec::with_capacity(asked.len() + DEFAULT_DEVICES.len() + 2);
    for (at, rule) in asked.iter().enumerate() {
        let field = |name: &str| format!("linux.resources.devices[{at}].{name}");
        let access = match rule.access.as_deref() {
            None | Some("") => {
                let text = format!("device access at {at} field cannot be empty");
                return Err(Error::config(field("access"), text));
            }
            Some(text) => Access::parse(text).ok_or_else(|| {
                Error::config(
                    field("access"),
                    format!("{text:?} has letters beside r, w and m"),
                )
            })?,
        };
        let kind = match rule.kind.as_deref() {
            None | Some("" | "a") => None,
            Some("b") => Some(Kind::Block),
            Some("c") => Some(Kind::Char),
            Some(other) => {
                let text = format!("invalid cgroup device type {other:?}");
                return Err(Error::config(field("type"), text));
            }
        };
        let devices = match kind {
            None => Devices::All,
            Some(kind) => {
                let major = number(rule.major, &field("major"))?;
                let minor = number(rule.minor, &field("minor"))?;
                Devices::Some(Device { major, minor, kind }, access)
            }
        };
        rules.push(Rule {
            allow: rule.allow,
            devices,
        });
    }
    rules.extend(default_rules(linux));
    Ok(rules)
}

/// A major or minor number; not given or -1 is every one.
fn number(value: Option<i64>, field: &str) -> Result<Option<u32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| Error::config(field, format!("{value} is no device number"))),
    }
}

/// What every container may do: make any node, and use the usual devices.
fn default_rules(linux: &Linux) -> impl Iterator<Item = Rule> {
    let make = [Kind::Char, Kind::Block].map(|kind| {
        let (major, minor) = (None, None);
        Devices::Some(Device { major, minor, kind }, Access::MKNOD)
    });
    let replaced = |node: &str| linux.devices.iter().any(|device| device.path == node);
    let using = DEFAULT_DEVICES
        .into_iter()
        .filter(move |(node, ..)| !node.is_some_and(replaced))
        .map(|(_, major, minor)| {
            let (major, kind) = (Some(major), Kind::Char);
            Devices::Some(Device { major, minor, kind }, Access::ALL)
        });
    make.into_iter().chain(using).map(|devices| Rule {
        allow: true,
        devices,
    })
}

/// The state of a v1 devices cgroup: a default, and exceptions from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether what no exception names is allowed.
    pub allow: bool,
    /// What is denied (`allow`) or allowed (otherwise).
    pub exceptions: BTreeMap<Device, Access>,
}

impl Policy {
    /// The policy that `rules` lead to, beginning with everything denied.
    ///
    /// # Errors
    /// A rule that takes a part of what a rule with wildcards gave (or gives
    /// back a part of what one took): the kernel would ignore it silently.
    pub fn of(rules: &[Rule]) -> Result<Self> {
        let mut policy = Self::default();
        for rule in rules {
            match rule.devices {
                Devices::All => {
                    policy = Self {
                        allow: rule.allow,
                        exceptions: BTreeMap::new(),
                    };
                }
                Devices::Some(device, access) if rule.allow == policy.allow => {
                    policy.remove(device, access)?;
                }
                Devices::Some(device, access) => policy.add(device, access),
            }
        }
        Ok(policy)
    }

    /// Reads devices.list. Of a policy that allows by default the kernel does
    /// not tell the exceptions.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        let mut policy = Self::default();
        for line in list.lines() {
            let mut fields = line.split([' ', ':']);
            let kind = match fields.next() {
                Some("b") => Kind::Block,
                Some("c") => Kind::Char,
                Some("a") => {
                    policy.allow = true;
                    policy.exceptions.clear();
                    return policy;
                }
                _ => continue,
            };
            let (major, minor) = (fields.next(), fields.next());
            let Some(access) = fields.next().and_then(Access::parse) else {
                continue;
            };
            let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
            let (major, minor) = (number(major), number(minor));
            policy.add(Device { major, minor, kind }, access);
        }
        policy
    }

    fn add(&mut self, device: Device, access: Access) {
        self.exceptions
            .entry(device)
            .and_modify(|known| *known = known.and(access))
            .or_insert(access);
    }

    fn remove(&mut self, device: Device, access: Access) -> Result<()> {
        for (major, minor) in [(None, device.minor), (device.major, None), (None, None)] {
            let wide = Device {
                major,
                minor,
                ..device
            };
            if wide == device {
                continue;
            }
            if let Some(given) = self.exceptions.get(&wide)
                && given.overlaps(access)
            {
                let text = format!(
                    "linux.resources.devices: requested rule \"{device} {access}\" not supported \
                     by devices cgroupv1 (cannot punch hole in existing wildcard rule \"{wide} {given}\")"
                );
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        }
        if let Some(known) = self.exceptions.get(&device).copied() {
            match known.without(access) {
                Some(rest) => self.exceptions.insert(device, rest),
                None => self.exceptions.remove(&device),
            };
        }
        Ok(())
    }

    /// The fewest writes that lead from this policy to `target`: the file and
    /// the value of each. What both allow stays allowed throughout.
    #[must_use]
    pub fn steps_to(&self, target: &Self) -> Vec<(&'static str, String)> {
        let file = |allow: bool| {
            if allow {
                "devices.allow"
            } else {
                "devices.deny"
            }
        };
        let none = BTreeMap::new();
        let mut old = &self.exceptions;
        let mut steps = Vec::new();
        // What a policy that allows by default denies is unknown, so that only
        // a fresh start is certain.
        if self.allow || target.allow {
            steps.push((file(target.allow), "a".to_owned()));
            old = &none;
        }
        for (device, had) in old {
            let kept = target.exceptions.get(device);
            if let Some(lost) = kept.map_or(Some(*had), |kept| had.without(*kept)) {
                steps.push((file(target.allow), format!("{device} {lost}")));
            }
        }
        for (device, wanted) in &target.exceptions {
            let had = old.get(device);
            if let Some(gained) = had.map_or(Some(*wanted), |had| wanted.without(*had)) {
                steps.push((file(!target.allow), format!("{device} {gained}")));
            }
        }
        steps
    }
}

/// How tests write rules down.
#[cfg(test)]
pub(super) mod notation {
    use super::{Devices, Policy, Rule};

    /// `+c 1:3 rw`, `-b *:* m`, `+a`, separated by commas.
    pub(in crate::plan::cgroup) fn parse(text: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        for rule in text.split(", ").filter(|rule| !rule.is_empty()) {
            let (allow, rest) = (rule.starts_with('+'), &rule[1..]);
            let devices = if rest == "a" {
                Devices::All
            } else {
                let policy = Policy::parse(rest);
                let (device, access) = policy.exceptions.iter().next().unwrap();
                Devices::Some(*device, *access)
            };
            rules.push(Rule { allow, devices });
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::notation::parse;
    use super::*;
    use crate::spec::{DeviceRule, Resources};

    #[test]
    fn a_v1_policy_is_reached_in_the_fewest_steps() {
        for (name, from, rules, expected) in [
            ("nothing from all", "a *:* rwm", "", "deny a"),
            (
                "some from all",
                "a *:* rwm",
                "-a, +c 1:3 r, +c 1:3 w",
                "deny a; allow c 1:3 rw",
            ),
            ("all from all", "a *:* rwm", "+a", "allow a"),
            (
                "all but some",
                "a *:* rwm",
                "+a, -b 8:0 w",
                "allow a; deny b 8:0 w",
            ),
            ("all from some", "c 1:3 rw", "+a", "allow a"),
            ("the same", "c 1:3 rw\nc *:* m", "+c *:* m, +c 1:3 rw", ""),
            (
                "less",
                "c 1:3 rw\nc *:* m",
                "+c 1:3 r",
                "deny c *:* m; deny c 1:3 w",
            ),
            (
                "more",
                "c 1:3 r",
                "+c 1:3 rw, +b *:* m",
                "allow b *:* m; allow c 1:3 w",
            ),
            (
                "given and taken",
                "a *:* rwm",
                "+c 1:3 rwm, -c 1:3 w",
                "deny a; allow c 1:3 rm",
            ),
            (
                "taken whole",
                "a *:* rwm",
                "+c 1:3 rwm, -c 1:3 rwm",
                "deny a",
            ),
        ] {
            let target = Policy::of(&parse(rules)).unwrap();
            let steps: Vec<String> = Policy::parse(from)
                .steps_to(&target)
                .into_iter()
                .map(|(file, value)| format!("{} {value}", &file["devices.".len()..]))
                .collect();
            assert_eq!(steps.join("; "), expected, "{name}");
        }
    }

    #[test]
    fn v1_refuses_a_hole_in_a_wildcard() {
        let error = Policy::of(&parse("+c 1:* rw, -c 1:3 w")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "linux.resources.devices: requested rule \"c 1:3 w\" not supported by devices cgroupv1 \
             (cannot punch hole in existing wildcard rule \"c 1:* rw\")"
        );
        Policy::of(&parse("+c 1:* rw, -c 1:3 m")).unwrap();
    }

    #[test]
    fn default_rules_come_last_and_give_way_to_devices_at_their_path() {
        let mut linux = Linux {
            resources: Some(Resources {
                devices: vec![DeviceRule {
                    access: Some("rwm".to_owned()),
                    ..DeviceRule::default()
                }],
                ..Resources::default()
            }),
            ..Linux::default()
        };
        let defaults = "+c *:* m, +b *:* m, +c 1:3 rwm, +c 1:8 rwm, +c 1:7 rwm, +c 5:0 rwm, \
                        +c 1:5 rwm, +c 1:9 rwm, +c 136:* rwm, +c 5:2 rwm, +c 10:200 rwm";
        assert_eq!(rules(&linux).unwrap(), parse(&format!("-a, {defaults}")));
        linux.resources = None;
        linux.devices.push(crate::spec::Device {
            path: "/dev/full".to_owned(),
            ..Default::default()
        });
        assert_eq!(
            rules(&linux).unwrap(),
            parse(&defaults.replace("+c 1:7 rwm, ", ""))
        );
    }

    #[test]
    fn bad_rules_are_refused_by_their_place() {
        for (json, expected) in [
            (
                r#"{"devices":[{"allow":true,"type":"c","access":"r"},{"allow":true}]}"#,
                "config.json: linux.resources.devices[1].access: device access at 1 field cannot be empty",
            ),
            (
                r#"{"devices":[{"type":"c","access":"rx"}]}"#,
                "config.json: linux.resources.devices[0].access: \"rx\" has letters beside r, w and m",
            ),
            (
                r#"{"devices":[{"type":"p","access":"r"}]}"#,
                "config.json: linux.resources.devices[0].type: invalid cgroup device type \"p\"",
            ),
            (
                r#"{"devices":[{"type":"c","major":-2,"access":"r"}]}"#,
                "config.json: linux.resources.devices[0].major: -2 is no device number",
            ),
        ] {
            let linux = Linux {
                resources: Some(Resources::parse(json.as_bytes()).unwrap()),
                ..Linux::default()
            };
            assert_eq!(rules(&linux).unwrap_err().to_string(), expected);
        }
    }
}
