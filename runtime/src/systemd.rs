//! systemd, asked over D-Bus to make and to end the units of containers.
//!
//! The order of events: [`facts`] before the plan is made; [`Systemd::start`]
//! while the container's process waits, which is moved into the scope by
//! systemd; [`Systemd::set`] by `update`; [`Systemd::stop`] by `delete`. Each
//! is one connection. Nothing here waits longer than [`PATIENCE`].
//! Source: org.freedesktop.systemd1(5).

use std::time::Duration;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::dbus::wire::{Call, Value};
use crate::dbus::{Address, Connection, Failure};
use crate::error::{Context, Error, Kind, Result};

/// How long systemd may take for an answer, and for a job. It is busy for
/// seconds when a machine boots or reloads.
pub const PATIENCE: Duration = Duration::from_secs(30);

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Which systemd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instance {
    /// The system's.
    #[default]
    System,
    /// The one of a user: rootless.
    User,
}

/// What the plan needs to know about systemd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Which one it is.
    pub instance: Instance,
    /// Its version, such as 252.
    pub version: u32,
    /// The cgroup in which it rules, `/` for the system's.
    pub control_group: String,
    /// What the host has names for.
    pub device_groups: Vec<DeviceGroup>,
}

/// A line of /proc/devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceGroup {
    /// Whether it is among the block devices.
    pub is_block: bool,
    /// Its major number.
    pub major: u32,
    /// Its name, such as `pts`.
    pub name: String,
}

/// A connection to systemd.
#[derive(Debug)]
pub struct Systemd {
    connection: Connection,
    instance: Instance,
}

/// Asks systemd about itself.
///
/// # Errors
/// It can't be reached, or doesn't answer.
pub fn facts(instance: Instance) -> Result<Facts> {
    let mut systemd = Systemd::connect(instance)?;
    let asked = ["Version", "ControlGroup"].map(|name| systemd.ask_property(name));
    let [version, control_group] = asked;
    let version = systemd.property(version?)?;
    let control_group = systemd.property(control_group?)?;
    Ok(Facts {
        instance,
        version: number(&version),
        control_group,
        device_groups: device_groups(
            // Without it no group of devices has a name.
            &std::fs::read_to_string("/proc/devices").unwrap_or_default(),
        ),
    })
}

/// The groups in the text of /proc/devices. Several drivers may share a number:
/// the first comes first.
fn device_groups(text: &str) -> Vec<DeviceGroup> {
    let mut is_block = false;
    let mut groups = Vec::new();
    for line in text.lines() {
        match line {
            "Character devices:" => is_block = false,
            "Block devices:" => is_block = true,
            line => {
                if let Some((major, name)) = line.trim().split_once(' ')
                    && let Ok(major) = major.parse()
                {
                    let name = name.to_owned();
                    groups.push(DeviceGroup {
                        is_block,
                        major,
                        name,
                    });
                }
            }
        }
    }
    groups
}

/// The number at the beginning of a version like `252.39-1~deb12u1` or `v252`.
fn number(version: &str) -> u32 {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// Where systemd listens: the bus, and where that is missing its own socket.
fn addresses(instance: Instance, variable: impl Fn(&str) -> Option<String>) -> Vec<Address> {
    let (bus, own) = match instance {
        Instance::System => (
            variable("DBUS_SYSTEM_BUS_ADDRESS"),
            "/run/systemd/private".to_owned(),
        ),
        Instance::User => {
            let directory = runtime_directory(&variable);
            (
                variable("DBUS_SESSION_BUS_ADDRESS"),
                format!("{directory}/systemd/private"),
            )
        }
    };
    let mut found = match (bus, instance) {
        (Some(list), _) => Address::list(&list),
        (None, Instance::System) => vec![Address::at("/run/dbus/system_bus_socket", true)],
        (None, Instance::User) => {
            let directory = runtime_directory(&variable);
            vec![Address::at(&format!("{directory}/bus"), true)]
        }
    };
    found.push(Address::at(&own, false));
    found
}

fn runtime_directory(variable: impl Fn(&str) -> Option<String>) -> String {
    variable("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{}", nix::unistd::geteuid()))
}

impl Systemd {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens, or it refuses us or doesn't answer in time.
    pub fn connect(instance: Instance) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let addresses = addresses(instance, variable);
        let whose = match instance {
            Instance::System => "systemd",
            Instance::User => "the user's systemd",
        };
        let connection = Connection::open(&addresses, NAME, PATIENCE)
            .context(|| format!("reach {whose}"))
            .map_err(|error| {
                error.with_hint("is systemd running here? else use --cgroup-manager cgroupfs")
            })?;
        Ok(Self {
            connection,
            instance,
        })
    }

    /// Makes the unit `name`, with the process `pid` in it if it is a scope.
    ///
    /// # Errors
    /// A unit of this name exists ([`Kind::AlreadyExists`]), a property is
    /// refused, the job fails or takes too long.
    pub fn start(&mut self, name: &str, properties: &[(String, Value)], pid: Pid) -> Result<()> {
        let is_scope = name.ends_with(".scope");
        let doing = || format!("start the unit {name:?}");
        let mut properties = properties.to_vec();
        if is_scope {
            let items = vec![Value::Uint32(pid.as_raw().cast_unsigned())];
            let of = "u".to_owned();
            properties.push(("PIDs".to_owned(), Value::Array { of, items }));
        }
        let arguments = [
            Value::text(name),
            // A job of ours gives way to none that is waiting.
            Value::text("fail"),
            variants(&properties),
            Value::Array {
                of: "(sa(sv))".to_owned(),
                items: Vec::new(),
            },
        ];
        match self.run_job("StartTransientUnit", &arguments) {
            // A slice may well be there.
            Err(Failure::Refused(refusal))
                if refusal.name.ends_with(".UnitExists") && !is_scope =>
            {
                Ok(())
            }
            // One that has failed and was not forgotten.
            Err(Failure::Refused(refusal)) if refusal.name.ends_with(".UnitExists") => {
                self.forget(name)?;
                match self.run_job("StartTransientUnit", &arguments) {
                    Err(Failure::Refused(refusal)) if refusal.name.ends_with(".UnitExists") => {
                        let error = Error::new(Kind::AlreadyExists, refusal.text);
                        Err(error.within(doing()))
                    }
                    started => started.context(doing),
                }
            }
            started => started.context(doing),
        }
    }

    /// Stops the unit, which ends all its processes, and forgets it. One that
    /// is gone already is what is wanted.
    ///
    /// # Errors
    /// It can't be stopped in time.
    pub fn stop(&mut self, unit: &str) -> Result<()> {
        let arguments = [Value::text(unit), Value::text("replace")];
        match self.run_job("StopUnit", &arguments) {
            Err(Failure::Refused(refusal)) if refusal.name.ends_with(".NoSuchUnit") => Ok(()),
            stopped => {
                stopped.context(|| format!("stop the unit {unit:?}"))?;
                self.forget(unit)
            }
        }
    }

    /// Changes properties of a unit until it ends. They are in force
    /// afterwards: the kernel's files have been written by then.
    ///
    /// # Errors
    /// One is refused, or there is no such unit; nothing is changed then.
    pub fn set(&mut self, unit: &str, properties: &[(String, Value)]) -> Result<()> {
        if properties.is_empty() {
            return Ok(());
        }
        let arguments = [Value::text(unit), Value::Bool(true), variants(properties)];
        self.connection.begin();
        let call = self.call("SetUnitProperties", &arguments)?;
        let answer = self.connection.reply(call);
        answer.context(|| format!("change the unit {unit:?}"))?;
        // It answers before it writes, but writes before it answers again.
        let asked = self.ask_property("Version")?;
        self.property(asked).map(drop)
    }

    /// The microseconds that a quota of CPU time of the unit is for, or will be
    /// once there is one; `None` if nobody has said.
    ///
    /// Until there is a quota the kernel's file doesn't tell: systemd writes the
    /// default period there whenever it gets to it.
    ///
    /// # Errors
    /// There is no such unit, or no answer.
    pub fn cpu_period(&mut self, unit: &str) -> Result<Option<u64>> {
        let doing = || format!("ask for the CPU period of the unit {unit:?}");
        let kind = match unit.ends_with(".slice") {
            true => "org.freedesktop.systemd1.Slice",
            false => "org.freedesktop.systemd1.Scope",
        };
        self.connection.begin();
        let call = self.call("GetUnit", &[Value::text(unit)])?;
        let answer = self.connection.reply(call).context(doing)?;
        let Some(Value::ObjectPath(path)) = answer.arguments.into_iter().next() else {
            return Err(Error::new(Kind::System, "the answer names no unit")).context(doing);
        };
        let call = self.ask(&path, kind, "CPUQuotaPeriodUSec")?;
        match self.value(call).context(doing)? {
            Value::Uint64(u64::MAX) => Ok(None),
            Value::Uint64(period) => Ok(Some(period)),
            other => Err(unexpected(&other)).context(doing),
        }
    }

    /// Lets systemd move a process into the unit, or into the cgroup `below` it
    /// (a path with a slash before it), which an unprivileged caller may not do
    /// from outside of what is delegated to it.
    ///
    /// # Errors
    /// It refuses, such as for a process of somebody else.
    pub fn attach(&mut self, unit: &str, below: &str, pid: Pid) -> Result<()> {
        let arguments = [
            Value::text(unit),
            Value::text(below),
            Value::Array {
                of: "u".to_owned(),
                items: vec![Value::Uint32(pid.as_raw().cast_unsigned())],
            },
        ];
        self.connection.begin();
        let call = self.call("AttachProcessesToUnit", &arguments)?;
        let answer = self.connection.reply(call);
        answer.context(|| format!("join the unit {unit:?}"))?;
        Ok(())
    }

    /// Which one this is.
    #[must_use]
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// Asks for a failed unit to be forgotten; most have not failed.
    fn forget(&mut self, unit: &str) -> Result<()> {
        self.connection.begin();
        let call = self.call("ResetFailedUnit", &[Value::text(unit)])?;
        match self.connection.reply(call) {
            Ok(_) | Err(Failure::Refused(_)) => Ok(()),
            Err(Failure::Broken(error)) => Err(error),
        }
    }

    /// Calls a method that begins a job, and waits for the job's end.
    fn run_job(&mut self, method: &str, arguments: &[Value]) -> Result<(), Failure> {
        self.connection.begin();
        if self.connection.is_bus() {
            self.subscribe()?;
        }
        let call = self.call(method, arguments)?;
        let answer = self.connection.reply(call)?;
        let Some(Value::ObjectPath(job)) = answer.arguments.into_iter().next() else {
            let text = format!("{method}: the answer names no job");
            return Err(Error::new(Kind::System, text).into());
        };
        // JobRemoved: number, job, unit, result.
        let signal = self.connection.signal(|signal| {
            signal.member == "JobRemoved"
                && matches!(signal.arguments.get(1), Some(Value::ObjectPath(path)) if *path == job)
        })?;
        match signal.arguments.get(3) {
            Some(Value::String(result)) if result == "done" => Ok(()),
            Some(Value::String(result)) => {
                let text = format!("{method}: the job ended as {result:?}");
                Err(Error::new(Kind::System, text).into())
            }
            _ => {
                let text = format!("{method}: the job ended, nobody says how");
                Err(Error::new(Kind::System, text).into())
            }
        }
    }

    /// Asks the bus for the ends of jobs; the answers are not waited for.
    fn subscribe(&mut self) -> Result<()> {
        let rule = format!(
            "type='signal',sender='{NAME}',path='{PATH}',interface='{MANAGER}',member='JobRemoved'"
        );
        self.connection.ask_bus("AddMatch", &[Value::text(rule)])?;
        self.call("Subscribe", &[])?;
        Ok(())
    }

    /// Calls a method of the manager.
    fn call(&mut self, method: &str, arguments: &[Value]) -> Result<u32> {
        let destination = self.connection.is_bus().then_some(NAME);
        self.connection.send(&Call {
            destination,
            path: PATH,
            interface: MANAGER,
            member: method,
            arguments,
        })
    }

    fn ask_property(&mut self, name: &str) -> Result<u32> {
        self.ask(PATH, MANAGER, name)
    }

    /// Asks for a property of an object.
    fn ask(&mut self, path: &str, interface: &str, name: &str) -> Result<u32> {
        let destination = self.connection.is_bus().then_some(NAME);
        self.connection.send(&Call {
            destination,
            path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            arguments: &[Value::text(interface), Value::text(name)],
        })
    }

    /// The text that a property of the manager has.
    fn property(&mut self, call: u32) -> Result<String> {
        let doing = || "ask systemd about itself";
        match self.value(call).context(doing)? {
            Value::String(text) => Ok(text),
            other => Err(unexpected(&other)).context(doing),
        }
    }

    /// The value that was asked for.
    fn value(&mut self, call: u32) -> Result<Value, Failure> {
        let answer = self.connection.reply(call)?;
        match answer.arguments.into_iter().next() {
            Some(Value::Variant(value)) => Ok(*value),
            _ => Err(Error::new(Kind::System, "an empty answer").into()),
        }
    }
}

fn unexpected(value: &Value) -> Error {
    let text = format!("an answer of type {:?}", value.signature());
    Error::new(Kind::System, text)
}

/// `a(sv)`
fn variants(properties: &[(String, Value)]) -> Value {
    let pair = |(name, value): &(String, Value)| {
        let value = Value::Variant(Box::new(value.clone()));
        Value::Struct(vec![Value::text(name), value])
    };
    Value::Array {
        of: "(sv)".to_owned(),
        items: properties.iter().map(pair).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_comes_before_systemds_own_socket() {
        let uid = nix::unistd::geteuid();
        let home = format!("/run/user/{uid}");
        for (instance, variables, expected) in [
            (
                Instance::System,
                vec![],
                vec![
                    ("/run/dbus/system_bus_socket".to_owned(), true),
                    ("/run/systemd/private".to_owned(), false),
                ],
            ),
            (
                Instance::System,
                vec![(
                    "DBUS_SYSTEM_BUS_ADDRESS",
                    "tcp:host=x;unix:path=/a%20b,guid=1",
                )],
                vec![
                    ("/a b".to_owned(), true),
                    ("/run/systemd/private".to_owned(), false),
                ],
            ),
            (
                Instance::User,
                vec![("XDG_RUNTIME_DIR", "/r")],
                vec![
                    ("/r/bus".to_owned(), true),
                    ("/r/systemd/private".to_owned(), false),
                ],
            ),
            (
                Instance::User,
                vec![("DBUS_SESSION_BUS_ADDRESS", "unix:path=/s")],
                vec![
                    ("/s".to_owned(), true),
                    (format!("{home}/systemd/private"), false),
                ],
            ),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let expected: Vec<Address> = expected
                .iter()
                .map(|(path, is_bus)| Address::at(path, *is_bus))
                .collect();
            assert_eq!(addresses(instance, variable), expected, "{variables:?}");
        }
    }

    #[test]
    fn proc_devices_names_groups_by_kind_and_number() {
        let text =
            "Character devices:\n  4 /dev/vc/0\n  4 tty\n136 pts\n\nBlock devices:\n  8 sd\n";
        let shown: Vec<String> = device_groups(text)
            .iter()
            .map(|group| format!("{} {} {}", group.is_block, group.major, group.name))
            .collect();
        let expected = [
            "false 4 /dev/vc/0",
            "false 4 tty",
            "false 136 pts",
            "true 8 sd",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_version_is_its_first_number() {
        for (text, expected) in [("252.39-1~deb12u1", 252), ("v249", 249), ("", 0), ("x", 0)] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
