//! libseccomp as an oracle: a small C program (`oracle.c`) that is built when
//! the test starts and asked through pipes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rrun::seccomp::{Action, Arch, Instruction};
use rrun::spec::{ArgCondition, Seccomp};

pub(crate) struct Oracle {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What libseccomp makes of a profile.
pub(crate) enum Answer {
    Program(Vec<Instruction>),
    /// It refuses a rule: a negative errno.
    Refused(i32),
}

impl Oracle {
    /// Builds and starts the oracle.
    pub(crate) fn start(name: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seccomp/oracle.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-{name}"));
        let built = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-o"])
            .arg(&program)
            .arg(source)
            .arg("-lseccomp")
            .status()
            .expect("cc runs");
        assert!(built.success(), "the oracle needs gcc and libseccomp-dev");
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            questions: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn ask(&mut self, question: &str) -> String {
        self.questions.write_all(question.as_bytes()).unwrap();
        self.questions.flush().unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer
    }

    /// The syscall's number in libseccomp's table for each architecture;
    /// multiplexed and missing ones are negative, -1 is unknown anywhere.
    pub(crate) fn resolve(&mut self, name: &str) -> Vec<i32> {
        let answer = self.ask(&format!("resolve {name}\n"));
        answer
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    }

    /// The program of a profile, made by the calls that runc makes. The rules
    /// are added in order; one with the default action isn't, and a rule with
    /// a repeated index is added once for each condition.
    pub(crate) fn compile(&mut self, profile: &Seccomp) -> Answer {
        let default = action(&profile.default_action, profile.default_errno_ret).value();
        let mut question = format!("filter {default:#x}\n");
        for name in &profile.architectures {
            let arch = Arch::ALL
                .into_iter()
                .find(|arch| arch.name() == name)
                .unwrap();
            question += &format!("arch {:#x}\n", token(arch));
        }
        for rule in &profile.syscalls {
            let action = action(&rule.action, rule.errno_ret).value();
            if action == default {
                continue;
            }
            for name in &rule.names {
                if repeats(&rule.args) {
                    for arg in &rule.args {
                        question += &line(action, name, std::slice::from_ref(arg));
                    }
                } else {
                    question += &line(action, name, &rule.args);
                }
            }
        }
        let answer = self.ask(&(question + "end\n"));
        let mut words = answer.split_whitespace();
        let count: i32 = words.next().unwrap().parse().unwrap();
        if count < 0 {
            return Answer::Refused(count);
        }
        let words: Vec<u32> = words
            .map(|word| u32::from_str_radix(word, 16).unwrap())
            .collect();
        let program: Vec<_> = words
            .chunks_exact(4)
            .map(|word| Instruction {
                code: u16::try_from(word[0]).unwrap(),
                jt: u8::try_from(word[1]).unwrap(),
                jf: u8::try_from(word[2]).unwrap(),
                k: word[3],
            })
            .collect();
        assert_eq!(program.len(), usize::try_from(count).unwrap());
        Answer::Program(program)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Whether an argument has more than one condition.
pub(crate) fn repeats(args: &[ArgCondition]) -> bool {
    (1..args.len()).any(|at| args[..at].iter().any(|arg| arg.index == args[at].index))
}

/// The action that these words mean; written down apart from the compiler.
pub(crate) fn action(name: &str, errno: Option<u32>) -> Action {
    let errno = u16::try_from(errno.unwrap_or(1)).unwrap();
    match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_ERRNO" => Action::Errno(errno),
        "SCMP_ACT_TRACE" => Action::Trace(errno),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_NOTIFY" => Action::Notify,
        other => panic!("{other}"),
    }
}

fn line(action: u32, name: &str, args: &[ArgCondition]) -> String {
    let mut line = format!("rule {action:#x} {name} {}", args.len());
    for arg in args {
        // enum scmp_compare of seccomp.h.
        let op = match arg.op.as_str() {
            "SCMP_CMP_NE" => 1,
            "SCMP_CMP_LT" => 2,
            "SCMP_CMP_LE" => 3,
            "SCMP_CMP_EQ" => 4,
            "SCMP_CMP_GE" => 5,
            "SCMP_CMP_GT" => 6,
            "SCMP_CMP_MASKED_EQ" => 7,
            other => panic!("{other}"),
        };
        line += &format!(" {} {op} {:#x} {:#x}", arg.index, arg.value, arg.value_two);
    }
    line + "\n"
}

/// `SCMP_ARCH_*` of seccomp.h.
fn token(arch: Arch) -> u32 {
    match arch {
        Arch::X86_64 => 0xc000_003e,
        Arch::X86 => 0x4000_0003,
        Arch::X32 => 0x4000_003e,
        Arch::Aarch64 => 0xc000_00b7,
        Arch::Arm => 0x4000_0028,
    }
}
