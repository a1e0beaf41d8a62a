//! Tables: profiles and what their filters answer.

use super::interpreter::{Call, answer, verify};
use super::*;

/// Compiles the JSON of a profile for x86_64.
fn compiled(profile: &str) -> Filter {
    let filter = result(profile).unwrap_or_else(|error| panic!("{profile}: {error}"));
    verify(&filter.program).unwrap_or_else(|refused| panic!("{profile}: {refused}"));
    filter
}

fn result(profile: &str) -> Result<Filter> {
    let profile = serde_json::from_str(profile).unwrap();
    compile(&profile, Arch::X86_64, &Support::default())
}

fn call(arch: Arch, name: &str, args: [u64; 6]) -> Call {
    Call {
        number: table::number(arch, name).unwrap_or_else(|| panic!("{name} on {arch:?}")),
        arch: arch.audit(),
        args,
    }
}

fn ask(filter: &Filter, arch: Arch, name: &str, args: [u64; 6]) -> u32 {
    answer(&filter.program, &call(arch, name, args)).unwrap()
}

fn ask_number(filter: &Filter, arch: Arch, number: u32) -> u32 {
    let call = Call {
        number,
        arch: arch.audit(),
        args: [0; 6],
    };
    answer(&filter.program, &call).unwrap()
}

const KILL: u32 = 0;
const ALLOW: u32 = 0x7fff_0000;

const fn errno(errno: u32) -> u32 {
    0x0005_0000 | errno
}

#[test]
fn each_action_has_its_return_value() {
    for (action, expected) in [
        (r#""action":"SCMP_ACT_KILL""#, 0x0000_0000),
        (r#""action":"SCMP_ACT_KILL_THREAD""#, 0x0000_0000),
        (r#""action":"SCMP_ACT_KILL_PROCESS""#, 0x8000_0000),
        (r#""action":"SCMP_ACT_TRAP""#, 0x0003_0000),
        (r#""action":"SCMP_ACT_ERRNO""#, 0x0005_0001),
        (r#""action":"SCMP_ACT_ERRNO","errnoRet":0"#, 0x0005_0000),
        (r#""action":"SCMP_ACT_ERRNO","errnoRet":4095"#, 0x0005_0fff),
        (r#""action":"SCMP_ACT_TRACE""#, 0x7ff0_0001),
        (r#""action":"SCMP_ACT_TRACE","errnoRet":65535"#, 0x7ff0_ffff),
        (r#""action":"SCMP_ACT_LOG""#, 0x7ffc_0000),
        (r#""action":"SCMP_ACT_NOTIFY""#, 0x7fc0_0000),
    ] {
        let filter = compiled(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/s",
                 "syscalls":[{{"names":["mkdir"],{action}}}]}}"#
        ));
        assert_eq!(
            ask(&filter, Arch::X86_64, "mkdir", [0; 6]),
            expected,
            "{action}"
        );
        assert_eq!(
            ask(&filter, Arch::X86_64, "rmdir", [0; 6]),
            ALLOW,
            "{action}"
        );
    }
}

#[test]
fn each_operator_compares_all_64_bits() {
    const BIG: u64 = 0x0000_0005_0000_0005;
    // op, value, valueTwo, argument => matches
    for (op, value, two, arg, expected) in [
        ("EQ", BIG, 0_u64, BIG, true),
        ("EQ", BIG, 0, 5, false),
        ("EQ", BIG, 0, 5 << 32, false),
        ("NE", BIG, 0, BIG, false),
        ("NE", BIG, 0, 5, true),
        ("NE", BIG, 0, 5 << 32, true),
        ("LT", BIG, 0, BIG, false),
        ("LT", BIG, 0, BIG - 1, true),
        ("LT", BIG, 0, 0x4_ffff_ffff, true),
        ("LT", BIG, 0, 0x6_0000_0000, false),
        ("LE", BIG, 0, BIG, true),
        ("LE", BIG, 0, BIG + 1, false),
        ("LE", BIG, 0, 0x4_ffff_ffff, true),
        ("LE", BIG, 0, 0x6_0000_0000, false),
        ("GT", BIG, 0, BIG, false),
        ("GT", BIG, 0, BIG + 1, true),
        ("GT", BIG, 0, 0x4_ffff_ffff, false),
        ("GT", BIG, 0, 0x6_0000_0000, true),
        ("GE", BIG, 0, BIG, true),
        ("GE", BIG, 0, BIG - 1, false),
        ("GE", BIG, 0, 0x6_0000_0000, true),
        ("MASKED_EQ", 0xf0, 0x50, 0x5f, true),
        ("MASKED_EQ", 0xf0, 0x50, 0x6f, false),
        ("MASKED_EQ", 0xf0, 0x50, 0xffff_ffff_0000_0050, true),
        (
            "MASKED_EQ",
            0xf0_0000_0000,
            0x50_0000_0000,
            0x50_1234_5678,
            true,
        ),
        (
            "MASKED_EQ",
            0xf0_0000_0000,
            0x50_0000_0000,
            0x60_1234_5678,
            false,
        ),
        ("MASKED_EQ", 0xf0, 0x5f, 0x50, true),
        ("MASKED_EQ", 0, 7, 3, true),
    ] {
        let filter = compiled(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["mkdir"],
                 "action":"SCMP_ACT_ERRNO","errnoRet":7,"args":[
                 {{"index":3,"value":{value},"valueTwo":{two},"op":"SCMP_CMP_{op}"}}]}}]}}"#
        ));
        let expected = if expected { errno(7) } else { ALLOW };
        let answer = ask(&filter, Arch::X86_64, "mkdir", [0, 0, 0, arg, 0, 0]);
        assert_eq!(answer, expected, "{arg:#x} {op} {value:#x} {two:#x}");
    }
}

#[test]
fn several_rules_for_a_syscall_resolve_as_documented() {
    const ARGS: &str = r#""args":[{"index":0,"value":"#;
    let eq = |value: u64| format!(r#"{ARGS}{value},"op":"SCMP_CMP_EQ"}}]"#);
    let gt = |value: u64| format!(r#"{ARGS}{value},"op":"SCMP_CMP_GT"}}]"#);
    let lt = |value: u64| format!(r#"{ARGS}{value},"op":"SCMP_CMP_LT"}}]"#);
    let both = r#""args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},
                          {"index":1,"value":2,"op":"SCMP_CMP_EQ"}]"#;
    let twice = r#""args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},
                           {"index":0,"value":2,"op":"SCMP_CMP_EQ"}]"#;
    // name, the rules for mkdir with errno 1, 2, ..., argument 0 => errno
    for (name, rules, arg, expected) in [
        (
            "the first unconditional one",
            vec!["".into(), "".into()],
            0,
            Some(1),
        ),
        (
            "unconditional beats earlier",
            vec![eq(5), "".into()],
            5,
            Some(2),
        ),
        (
            "unconditional beats later",
            vec!["".into(), eq(5)],
            5,
            Some(1),
        ),
        ("alternatives, first", vec![eq(5), eq(6)], 5, Some(1)),
        ("alternatives, second", vec![eq(5), eq(6)], 6, Some(2)),
        ("alternatives, neither", vec![eq(5), eq(6)], 7, None),
        ("the narrower greater", vec![gt(5), gt(10)], 11, Some(2)),
        ("the wider greater", vec![gt(5), gt(10)], 10, Some(1)),
        ("the narrower less", vec![lt(10), lt(5)], 4, Some(2)),
        ("equality before greater", vec![gt(5), eq(10)], 10, Some(2)),
        ("less before greater", vec![gt(5), lt(10)], 7, Some(2)),
        ("conditions are ANDed", vec![both.into()], 1, None),
        (
            "a longer rule is swallowed",
            vec![eq(1), both.into()],
            1,
            Some(1),
        ),
        ("a repeated index is ORed", vec![twice.into()], 2, Some(1)),
    ] {
        let rules: Vec<_> = (1..)
            .zip(rules)
            .map(|(errno, args)| {
                let comma = if args.is_empty() { "" } else { "," };
                format!(
                    r#"{{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":{errno}{comma}{args}}}"#
                )
            })
            .collect();
        let filter = compiled(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#,
            rules.join(",")
        ));
        let expected = expected.map_or(ALLOW, errno);
        assert_eq!(
            ask(&filter, Arch::X86_64, "mkdir", [arg, 0, 0, 0, 0, 0]),
            expected,
            "{name}"
        );
    }
}

#[test]
fn a_repeated_index_is_warned_of() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["rmdir"],"action":"SCMP_ACT_LOG"},
            {"names":["mkdir"],"action":"SCMP_ACT_LOG","args":[
                {"index":2,"value":1,"op":"SCMP_CMP_EQ"},
                {"index":2,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(
        filter.warnings,
        ["linux.seccomp.syscalls[1].args: index 2 repeats, so each condition is a rule of its own"]
    );
}

#[test]
fn architectures_that_are_not_named_are_killed() {
    let native = compiled(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    let x86 = compiled(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}"#);
    let x32 = compiled(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X32"]}"#);
    for (name, filter, arch, expected) in [
        ("native", &native, Arch::X86_64, ALLOW),
        ("unnamed x32", &native, Arch::X32, KILL),
        ("unnamed x86", &native, Arch::X86, KILL),
        ("foreign", &native, Arch::Aarch64, KILL),
        ("x86", &x86, Arch::X86, ALLOW),
        ("native beside x86", &x86, Arch::X86_64, ALLOW),
        ("x32 beside x86", &x86, Arch::X32, KILL),
        ("x32", &x32, Arch::X32, ALLOW),
        ("native beside x32", &x32, Arch::X86_64, ALLOW),
        ("x86 beside x32", &x32, Arch::X86, KILL),
    ] {
        assert_eq!(ask(filter, arch, "read", [0; 6]), expected, "{name}");
    }
    // A tracer's way to skip a syscall isn't x32.
    assert_eq!(ask_number(&native, Arch::X86_64, u32::MAX), ALLOW);
}

#[test]
fn syscalls_of_arm_itself_are_apart_from_those_that_grow() {
    let profile = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_ARM"],
        "syscalls":[{"names":["read","openat2","set_tls"],"action":"SCMP_ACT_ALLOW"}]}"#;
    let filter = compiled(profile);
    let own_alone = compiled(&profile.replace(r#""read","openat2","#, ""));
    for (name, filter, number, expected) in [
        ("read", &filter, 3, ALLOW),
        ("openat2", &filter, 437, ALLOW),
        ("in a gap", &filter, 436, errno(1)),
        ("newer", &filter, 438, errno(38)),
        ("far newer", &filter, 0xe_ffff, errno(38)),
        ("breakpoint", &filter, 0xf_0001, errno(1)),
        ("set_tls", &filter, 0xf_0005, ALLOW),
        ("behind it", &filter, 0xf_0006, errno(1)),
        ("set_tls alone", &own_alone, 0xf_0005, ALLOW),
        ("beside it nothing is newer", &own_alone, 438, errno(1)),
    ] {
        assert_eq!(ask_number(filter, Arch::Arm, number), expected, "{name}");
    }
}

#[test]
fn a_syscall_newer_than_the_profile_answers_enosys() {
    const PROFILE: &str = r#""architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
        "syscalls":[{"names":["read","openat2","nonsense"],"action":"SCMP_ACT_ALLOW"}]"#;
    let filter = |default: &str| compiled(&format!(r#"{{"defaultAction":{default},{PROFILE}}}"#));
    let denies = filter(r#""SCMP_ACT_ERRNO""#);
    let kills = filter(r#""SCMP_ACT_KILL_PROCESS""#);
    let traps = filter(r#""SCMP_ACT_TRAP""#);
    let logs = filter(r#""SCMP_ACT_LOG""#);
    let traces = filter(r#""SCMP_ACT_TRACE""#);
    // openat2 is 437 on all three.
    for (name, filter, arch, number, expected) in [
        ("the last one named", &denies, Arch::X86_64, 437, ALLOW),
        ("in a gap", &denies, Arch::X86_64, 436, errno(1)),
        ("newer", &denies, Arch::X86_64, 438, errno(38)),
        ("far newer", &denies, Arch::X86_64, 0x3fff_ffff, errno(38)),
        ("-1", &denies, Arch::X86_64, u32::MAX, errno(1)),
        ("newer on x86", &denies, Arch::X86, 438, errno(38)),
        ("gap on x86", &denies, Arch::X86, 436, errno(1)),
        (
            "newer on x32",
            &denies,
            Arch::X32,
            0x4000_0000 + 438,
            errno(38),
        ),
        (
            "gap on x32",
            &denies,
            Arch::X32,
            0x4000_0000 + 436,
            errno(1),
        ),
        (
            "newer, kill by default",
            &kills,
            Arch::X86_64,
            438,
            errno(38),
        ),
        (
            "older, kill by default",
            &kills,
            Arch::X86_64,
            436,
            0x8000_0000,
        ),
        (
            "newer, trap by default",
            &traps,
            Arch::X86_64,
            438,
            errno(38),
        ),
        (
            "newer, log by default",
            &logs,
            Arch::X86_64,
            438,
            0x7ffc_0000,
        ),
        (
            "newer, trace by default",
            &traces,
            Arch::X86_64,
            438,
            0x7ff0_0001,
        ),
    ] {
        assert_eq!(ask_number(filter, arch, number), expected, "{name}");
    }
    assert_eq!(denies.unknown, ["nonsense"]);
    assert_eq!(denies.warnings, [""; 0]);
}

#[test]
fn a_rule_that_repeats_the_default_still_shows_what_the_author_knew() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["mseal"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!(ask(&filter, Arch::X86_64, "mseal", [0; 6]), errno(1));
    assert_eq!(ask_number(&filter, Arch::X86_64, 463), errno(38));
}

#[test]
fn on_x86_a_socket_rule_reaches_socketcall() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[
            {"names":["socket","shmat"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":40,"op":"SCMP_CMP_NE"}]},
            {"names":["accept"],"action":"SCMP_ACT_LOG"}]}"#,
    );
    for (name, first, expected) in [
        ("socket", 1, ALLOW),
        ("socket", 40, errno(1)),
        ("socketcall", 1, ALLOW),
        ("socketcall", 2, errno(1)),
        ("socketcall", 5, 0x7ffc_0000),
        ("ipc", 21, ALLOW),
        ("ipc", 22, errno(1)),
    ] {
        let answer = ask(&filter, Arch::X86, name, [first, 0, 0, 0, 0, 0]);
        assert_eq!(answer, expected, "{name}({first})");
    }
}

#[test]
fn a_32_bit_architecture_compares_the_lower_half() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"syscalls":[
            {"names":["mkdir"],"action":"SCMP_ACT_ERRNO","args":[
                {"index":0,"value":5,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    let args = [0xffff_ffff_0000_0005, 0, 0, 0, 0, 0];
    assert_eq!(ask(&filter, Arch::X86, "mkdir", args), errno(1));
    assert_eq!(ask(&filter, Arch::X86_64, "mkdir", args), ALLOW);
}

#[test]
fn flags_are_what_runc_makes_of_them() {
    const NOTIFY: &str =
        r#","listenerPath":"/s","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]"#;
    for (flags, rest, expected) in [
        ("", "", 4),
        (r#","flags":null"#, "", 4),
        (r#","flags":[]"#, "", 0),
        (r#","flags":["SECCOMP_FILTER_FLAG_TSYNC"]"#, "", 0),
        (r#","flags":["SECCOMP_FILTER_FLAG_LOG"]"#, "", 2),
        (r#","flags":["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#, "", 4),
        (
            r#","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#,
            "",
            6,
        ),
        (
            r#","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#,
            "",
            0,
        ),
        (
            r#","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#,
            NOTIFY,
            0x28,
        ),
        ("", NOTIFY, 0xc),
    ] {
        let filter = compiled(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags}{rest}}}"#
        ));
        assert_eq!(filter.flags, expected, "{flags} {rest}");
        assert_eq!(filter.notifies, !rest.is_empty());
    }
}

#[test]
fn what_the_kernel_lacks_is_dropped_or_refused() {
    let profile = |json: &str| serde_json::from_str(json).unwrap();
    let old = Support {
        missing_actions: vec![0x7fc0_0000],
        missing_flags: 0x26,
    };
    let default = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    let filter = compile(&default, Arch::X86_64, &old).unwrap();
    assert_eq!((filter.flags, filter.warnings), (0, vec![]));
    let log = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#);
    let filter = compile(&log, Arch::X86_64, &old).unwrap();
    assert_eq!(filter.flags, 0);
    assert_eq!(
        filter.warnings,
        ["linux.seccomp.flags[0]: SECCOMP_FILTER_FLAG_LOG is unknown to this kernel, and ignored"]
    );
    let notify = profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/s","syscalls":[
            {"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    );
    assert_eq!(
        compile(&notify, Arch::X86_64, &old)
            .unwrap_err()
            .to_string(),
        "config.json: linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY is unknown to this kernel"
    );
}

#[test]
fn the_listener_comes_with_notify_only() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/s","listenerMetadata":"m",
            "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    );
    let expected = Listener {
        path: "/run/s".into(),
        metadata: "m".into(),
    };
    assert_eq!(filter.listener, Some(expected));
    let filter = compiled(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/s"}"#);
    assert_eq!(filter.listener, None);
}

#[test]
fn an_invalid_profile_is_refused_with_its_path() {
    let rule = |rest: &str| {
        format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["mkdir"],{rest}}}]}}"#)
    };
    let arg = |rest: &str| rule(&format!(r#""action":"SCMP_ACT_ERRNO","args":[{{{rest}}}]"#));
    for (profile, expected) in [
        ("{}".into(), "defaultAction: is missing"),
        (r#"{"defaultAction":"ALLOW"}"#.into(), "defaultAction: \"ALLOW\" is not an action"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1}"#.into(),
            "defaultErrnoRet: SCMP_ACT_ALLOW carries no errno",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.into(),
            "defaultAction: SCMP_ACT_NOTIFY can't be the default action: \
             nobody could hand out the listener",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","SCMP_ARCH_Z80"]}"#
                .into(),
            "architectures[1]: \"SCMP_ARCH_Z80\" is not an architecture",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["FAST"]}"#.into(),
            "flags[0]: \"FAST\" is not a flag",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"m"}"#.into(),
            "listenerMetadata: is set without listenerPath",
        ),
        (rule(r#""action":"""#), "syscalls[0].action: is missing"),
        (rule(r#""action":"SCMP_ACT_X""#), "syscalls[0].action: \"SCMP_ACT_X\" is not an action"),
        (
            rule(r#""action":"SCMP_ACT_KILL","errnoRet":1"#),
            "syscalls[0].errnoRet: SCMP_ACT_KILL carries no errno",
        ),
        (
            rule(r#""action":"SCMP_ACT_ERRNO","errnoRet":4096"#),
            "syscalls[0].errnoRet: 4096 is not between 0 and 4095",
        ),
        (
            rule(r#""action":"SCMP_ACT_TRACE","errnoRet":65536"#),
            "syscalls[0].errnoRet: 65536 is not between 0 and 65535",
        ),
        (
            rule(r#""action":"SCMP_ACT_NOTIFY""#),
            "listenerPath: is missing, and SCMP_ACT_NOTIFY needs it",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/s","syscalls":[
                {"names":["read","write"],"action":"SCMP_ACT_NOTIFY"}]}"#
                .into(),
            "syscalls[0].names[1]: SCMP_ACT_NOTIFY can't be used for write: \
             the listener is handed out by it",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"names":["read",""],"action":"SCMP_ACT_LOG"}]}"#
                .into(),
            "syscalls[0].names[1]: is empty",
        ),
        (
            arg(r#""index":9,"op":"SCMP_CMP_EQ""#),
            "syscalls[0].args[0].index: 9 is not between 0 and 5",
        ),
        (
            arg(r#""index":4294967295,"op":"SCMP_CMP_EQ""#),
            "syscalls[0].args[0].index: 4294967295 is not between 0 and 5",
        ),
        (arg(r#""index":0"#), "syscalls[0].args[0].op: is missing"),
        (arg(r#""index":0,"op":"=""#), "syscalls[0].args[0].op: \"=\" is not an operator"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"names":["read","mkdir"],"action":"SCMP_ACT_LOG","args":[
                    {"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
                {"names":["mkdir"],"action":"SCMP_ACT_KILL","args":[
                    {"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#
                .into(),
            "syscalls[1]: the rule for \"mkdir\" on SCMP_ARCH_X86_64 contradicts syscalls[0]: \
             the same conditions, another action",
        ),
    ] {
        let error = result(&profile).unwrap_err();
        let expected = format!("config.json: linux.seccomp.{expected}");
        assert_eq!(error.to_string(), expected, "{profile}");
    }
}

#[test]
fn a_profile_without_default_action_and_rules_is_no_filter() {
    let disabled = |json: &str| is_disabled(&serde_json::from_str(json).unwrap());
    assert!(disabled("{}"));
    assert!(!disabled(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#));
    assert!(!disabled(r#"{"syscalls":[{"names":["read"]}]}"#));
}

/// A profile with a rule of `conditions` alternatives for each of `names`.
fn large(names: usize, conditions: u64) -> String {
    let rules: Vec<_> = table::names()
        .filter(|name| table::number(Arch::X86_64, name).is_some())
        .take(names)
        .flat_map(|name| {
            (0..conditions).map(move |value| {
                format!(
                    r#"{{"names":["{name}"],"action":"SCMP_ACT_LOG","args":[
                        {{"index":1,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#
                )
            })
        })
        .collect();
    format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#,
        rules.join(",")
    )
}

#[test]
fn jumps_further_than_255_instructions_arrive() {
    let filter = compiled(&large(3, 300));
    for (value, expected) in [(0, 0x7ffc_0000), (299, 0x7ffc_0000), (300, errno(1))] {
        for name in ["accept", "accept4", "_sysctl"] {
            let answer = ask(&filter, Arch::X86_64, name, [0, value, 0, 0, 0, 0]);
            assert_eq!(answer, expected, "{name}({value})");
        }
    }
}

#[test]
fn a_filter_that_is_too_long_is_refused() {
    let error = result(&large(1, 1100)).unwrap_err().to_string();
    assert!(
        error.starts_with("config.json: linux.seccomp: the filter has ")
            && error.ends_with(" instructions, and the kernel takes 4096"),
        "{error}"
    );
}

#[test]
fn the_summary_counts_syscalls_by_action() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X32"],"syscalls":[
            {"names":["read","write"],"action":"SCMP_ACT_ALLOW"},
            {"names":["mkdir"],"action":"SCMP_ACT_KILL"},
            {"names":["rmdir"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(
        filter.summary,
        Summary {
            default: Action::Errno(1),
            unconditional: vec![(Action::KillThread, 2), (Action::Allow, 4)],
            conditional: 2,
            architectures: vec![Arch::X86_64, Arch::X32],
            instructions: filter.program.len(),
        }
    );
}
