//! Loggers. The reaper takes every child of its process, those of other tests
//! too, so each of these runs in a process of its own.

use super::*;

/// Runs `test` of the name `name` in another process, with a reaper.
fn alone(name: &str, test: impl AsyncFnOnce(&Folder, &Reaper)) {
    const ALONE: &str = "RRUN_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let path = format!("stdio::tests::logger::{name}");
        let output = Command::new("/proc/self/exe")
            .args(["--exact", &path, "--nocapture"])
            .env(ALONE, "yes")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("1 passed"), "{text}{errors}");
        return;
    }
    on_runtime(async {
        let folder = Folder::new();
        test(&folder, &Reaper::start().unwrap()).await;
    });
}

impl Folder {
    /// A logger with this script; its URL with a query.
    fn logger(&self, scheme: &str, script: &str) -> Request {
        let path = self.path("logger");
        std::fs::write(
            &path,
            format!("#!/bin/sh\ncd {}\n{script}", self.0.display()),
        )
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.stdout(format!("{scheme}://{path}?name=a+b&empty"))
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

#[test]
fn a_logger_reads_both_outputs_and_is_told_whose_they_are() {
    alone(
        "a_logger_reads_both_outputs_and_is_told_whose_they_are",
        async |folder, reaper| {
            let script = r#"
                tr '\0' '\n' </proc/$$/environ >environ
                printf '[%s]' "$@" >args
                links=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2)
                echo $links >links
                ls -l /proc/$$/fd >fds; grep -c ' [0-9] -> pipe:' fds >pipes
                cat <&3 >out 5>&- &
                exec 5>&-
                cat <&4 >err
                wait"#;
            let request = folder.logger("binary", script);
            let place = Place {
                exec_id: "e1",
                ..folder.place(reaper)
            };
            let (ends, mut stdio) = open(&request, &place).await.unwrap();
            drop(shell("seq 100000; echo err >&2", ends));
            stdio.connect().await.unwrap();
            stdio.drain(Duration::from_secs(5)).await;
            stdio.close().await;
            assert_eq!(
                folder.read("environ"),
                "CONTAINER_ID=e1\nCONTAINER_NAMESPACE=test\n"
            );
            assert_eq!(folder.read("args"), "[name][a b][empty][]");
            assert_eq!(folder.read("links"), "/dev/null /dev/null /dev/null\n");
            assert_eq!(folder.read("pipes"), "3\n");
            assert!(folder.read("out").into_bytes() == seq(100_000));
            assert_eq!(folder.read("err"), "err\n");
            assert_eq!(logged(), [""; 0]);
        },
    );
}

#[test]
fn a_logger_that_dies_holds_nobody_up() {
    alone(
        "a_logger_that_dies_holds_nobody_up",
        async |folder, reaper| {
            let request = folder.logger("binary", "exec 5>&-; head -c 7 <&3 >out");
            let (ends, mut stdio) = open(&request, &folder.place(reaper)).await.unwrap();
            drop(shell("head -c 1000000 /dev/zero; echo done >&2", ends));
            stdio.connect().await.unwrap();
            stdio.drain(Duration::from_secs(5)).await;
            let text = stdio.describe();
            stdio.close().await;
            assert!(text.ends_with("; stderr 0 bytes, 5 dropped"), "{text}");
            let lines = logged();
            assert!(
                lines.iter().any(|line| line.ends_with("broken pipe")),
                "{lines:?}"
            );
            let last = "the output is closed";
            assert!(lines.last().unwrap().ends_with(last), "{lines:?}");
        },
    );
}

#[test]
fn a_logger_that_hangs_holds_nobody_up() {
    alone(
        "a_logger_that_hangs_holds_nobody_up",
        async |folder, reaper| {
            let script =
                "trap 'echo term >signal; exit' TERM; exec 5>&-; while :; do sleep 0.1; done";
            let request = folder.logger("binary", script);
            let (ends, mut stdio) = open(&request, &folder.place(reaper)).await.unwrap();
            stdio.patience = Patience::For(Duration::from_millis(200));
            drop(shell("head -c 1000000 /dev/zero; echo done >&2", ends));
            stdio.connect().await.unwrap();
            let began = Instant::now();
            while !stdio.describe().ends_with("; stderr 5 bytes, 0 dropped") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(began.elapsed() >= Duration::from_millis(200));
            stdio.close().await;
            assert_eq!(folder.read("signal"), "term\n");
            let lines = logged();
            assert_eq!(
                lines[0],
                "stdout of \"web\": bytes are dropped after byte 65536"
            );
            assert_eq!(
                lines[1],
                "stdout of \"web\": 934464 bytes after byte 65536 were dropped; the output is closed"
            );
        },
    );
}

#[test]
fn a_logger_that_is_not_there_or_not_ready_is_an_error() {
    alone(
        "a_logger_that_is_not_there_or_not_ready_is_an_error",
        async |folder, reaper| {
            let path = folder.path("logger");
            let request = folder.stdout(format!("binary://{path}"));
            let error = open(&request, &folder.place(reaper)).await.unwrap_err();
            let text = format!("stdout: start {path:?}: No such file or directory (os error 2)");
            assert_eq!(error.to_string(), text);
            let request = folder.logger("binary-v2", "exec 5>&-; sleep 0.1");
            let error = open(&request, &folder.place(reaper)).await.unwrap_err();
            let text = format!("stdout: logger {path:?}: it closed descriptor 5 without a word");
            assert_eq!(error.to_string(), text);
            let request = folder.logger("binary-v2", "echo >&5; cat <&3 >out");
            let (ends, mut stdio) = open(&request, &folder.place(reaper)).await.unwrap();
            drop(shell("echo hi", ends));
            stdio.connect().await.unwrap();
            stdio.drain(Duration::from_secs(5)).await;
            stdio.close().await;
            assert_eq!(folder.read("out"), "hi\n");
            let request = Request {
                stdout: String::new(),
                stderr: format!("binary://{path}"),
                ..Request::default()
            };
            let error = open(&request, &folder.place(reaper)).await.unwrap_err();
            let text = format!("stderr: logger {path:?} must be the one of stdout");
            assert_eq!(error.to_string(), text);
        },
    );
}
