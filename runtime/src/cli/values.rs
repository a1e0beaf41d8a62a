//! Values of flags: text to types, with the spellings that Go's flag package
//! and runc take.

use std::path::PathBuf;
use std::time::Duration;

use super::global::Rootless;
use super::lifecycle::RunTarget;
use crate::state::ContainerId;
use crate::sys::mutation::Defence;

/// What clap gets for a value that is refused: the cause alone, since clap
/// adds flag and value.
type Parsed<T> = std::result::Result<T, String>;

/// User and group of `exec --user`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecUser {
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container; `None` keeps that of config.json.
    pub gid: Option<u32>,
}

/// `UID[:GID]`.
pub(super) fn exec_user(text: &str) -> Parsed<ExecUser> {
    let id = |text: &str, what| {
        // Rust would take a sign (CVE-2026-30892: no guessing about users).
        Some(text)
            .filter(|text| !text.starts_with('+'))
            .and_then(|text| match text.parse::<u32>() {
                Err(_) if Defence::StrictUser.is_out() => Some(0),
                parsed => parsed.ok(),
            })
            .ok_or_else(|| format!("{text:?} is no {what}"))
    };
    let (uid, gid) = match text.split_once(':') {
        None => (text, None),
        Some((uid, gid)) => (uid, Some(id(gid, "group id")?)),
    };
    Ok(ExecUser {
        uid: id(uid, "user id")?,
        gid,
    })
}

/// A truth as Go's strconv.ParseBool spells it.
pub(super) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `true`, `false` or `auto`.
pub(super) fn rootless(text: &str) -> Parsed<Rootless> {
    match (text, go_bool(text)) {
        ("auto", _) => Ok(Rootless::Auto),
        (_, Some(true)) => Ok(Rootless::Yes),
        (_, Some(false)) => Ok(Rootless::No),
        _ => Err("not one of true, false, auto".to_owned()),
    }
}

/// An id, or what no id can be: a path with a slash, or `.`, or `..`.
pub(super) fn run_target(text: &str) -> Parsed<RunTarget> {
    if text.contains('/') || text == "." || text == ".." {
        return Ok(RunTarget::Bundle(PathBuf::from(text)));
    }
    text.parse::<ContainerId>()
        .map(RunTarget::Id)
        .map_err(|error| error.to_string())
}

/// A signal: a number, or a name with or without `SIG`, in any case. A dash
/// in front is read over, as in kill(1).
pub(super) fn signal(text: &str) -> Parsed<i32> {
    let unknown = || format!("unknown signal {text:?}");
    let text = text.strip_prefix('-').unwrap_or(text);
    if let Ok(number) = text.parse::<i32>() {
        // 0 only checks; 64 is the last real-time signal (signal(7)).
        return if (0..=64).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    real_time(name)
        .or_else(|| {
            SIGNALS
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, number)| *number)
        })
        .ok_or_else(unknown)
}

/// `RTMIN`, `RTMIN+3`, `RTMAX-2`. The C library keeps 32 and 33 for itself,
/// so RTMIN is 34 (signal(7)).
fn real_time(name: &str) -> Option<i32> {
    let (base, rest) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (34, rest)
    } else {
        (64, name.strip_prefix("RTMAX")?)
    };
    let offset = match rest {
        "" => 0,
        _ if rest.starts_with(['+', '-']) => rest.parse::<i32>().ok()?,
        _ => return None,
    };
    Some(base + offset).filter(|number| (34..=64).contains(number))
}

/// Names of signals, without `SIG` (signal(7); the numbers of x86 and ARM).
const SIGNALS: [(&str, i32); 34] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// An amount of memory: bytes, or a number with `k`, `m`, `g`, `t` or `p`
/// (powers of 1024, an optional `b` or `ib` behind), or -1 for no limit.
pub(super) fn bytes(text: &str) -> Parsed<i64> {
    let cause = || "not a number of bytes".to_owned();
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(cause()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i64 = whole.parse().map_err(|_| cause())?;
    // Nine digits of a fraction are more than a byte for every unit we know
    // of in use; the rest is cut off.
    let fraction = &fraction[..fraction.len().min(9)];
    let parts: i128 = match fraction {
        "" => 0,
        digits => digits.parse().map_err(|_| cause())?,
    };
    // The length is at most 9.
    let scale = 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(9));
    let total = (i128::from(whole) << shift) + ((parts << shift) / scale);
    i64::try_from(total).map_err(|_| "more than 2^63 bytes".to_owned())
}

/// A duration as Go writes it: `5s`, `1m30s`, `500ms`, `1.5h`, or `0`.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let cause = || "not a duration such as 5s or 500ms".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(cause());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(cause)?;
        let (number, behind) = rest.split_at(digits);
        let (nanoseconds, unit) = DURATION_UNITS
            .iter()
            .find(|(name, _)| behind.starts_with(name))
            .map(|(name, nanoseconds)| (*nanoseconds, name.len()))
            .ok_or_else(cause)?;
        let number: f64 = number.parse().map_err(|_| cause())?;
        let part = Duration::try_from_secs_f64(number * nanoseconds / 1e9).map_err(|_| cause())?;
        total = total.checked_add(part).ok_or_else(cause)?;
        rest = &behind[unit..];
    }
    Ok(total)
}

/// Units with their nanoseconds; a unit stands before its own prefix.
const DURATION_UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, number) in [
            ("TERM", Ok(15)),
            ("SIGTERM", Ok(15)),
            ("sigkill", Ok(9)),
            ("15", Ok(15)),
            ("-9", Ok(9)),
            ("0", Ok(0)),
            ("RTMIN", Ok(34)),
            ("SIGRTMIN+3", Ok(37)),
            ("RTMAX-1", Ok(63)),
            ("RTMAX", Ok(64)),
            ("RTMAX+1", Err("unknown signal \"RTMAX+1\"")),
            ("RTMIN3", Err("unknown signal \"RTMIN3\"")),
            ("65", Err("unknown signal \"65\"")),
            ("ZZ", Err("unknown signal \"ZZ\"")),
            ("", Err("unknown signal \"\"")),
        ] {
            assert_eq!(signal(text), number.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn amounts_of_memory() {
        for (text, bytes_) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("-1", Some(-1)),
            ("64k", Some(64 << 10)),
            ("64M", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("2GiB", Some(2 << 30)),
            ("1 kb", Some(1024)),
            ("-2", None),
            ("1x", None),
            ("", None),
            ("m", None),
            ("1.2.3m", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("8192p", None),
        ] {
            assert_eq!(bytes(text).ok(), bytes_, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("5s", Some(5_000)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("0", Some(0)),
            ("5", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
        ] {
            let parsed = duration(text).ok();
            assert_eq!(parsed, milliseconds.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn users_and_targets() {
        assert_eq!(
            exec_user("1000"),
            Ok(ExecUser {
                uid: 1000,
                gid: None
            })
        );
        assert_eq!(
            exec_user("0:5"),
            Ok(ExecUser {
                uid: 0,
                gid: Some(5)
            })
        );
        assert_eq!(exec_user("www"), Err("\"www\" is no user id".to_owned()));
        assert_eq!(exec_user("1:x"), Err("\"x\" is no group id".to_owned()));
        assert_eq!(exec_user("+1"), Err("\"+1\" is no user id".to_owned()));
        assert_eq!(run_target("b/"), Ok(RunTarget::Bundle("b/".into())));
        assert_eq!(run_target("."), Ok(RunTarget::Bundle(".".into())));
        assert!(matches!(run_target("web"), Ok(RunTarget::Id(_))));
        assert!(run_target("a b").is_err());
    }
}
