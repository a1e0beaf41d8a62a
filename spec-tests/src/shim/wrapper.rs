//! A runtime that fails as a case wants it: a shell script in front of the
//! shim's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;

use super::options::{Field, typed};
use super::streams::Streams;
use super::task::Wish;
use crate::case::Test;

/// The runtime that the shim under test calls by default.
pub fn real(test: &Test) -> PathBuf {
    if test.is("containerd-shim-runc-v2") {
        return PathBuf::from("runc");
    }
    test.runtime.with_file_name("rrun")
}

/// Options with a runtime that does `script` before it becomes the real one,
/// which is `$real`; `$verb` is what it is asked.
pub fn runtime(test: &Test, script: &str) -> Any {
    let path = test.directory.join("wrapper");
    let text = format!(
        "#!/bin/sh\nreal={}\nverb=\n\
        for word in \"$@\"; do case $word in create|start|exec|kill|delete|ps) verb=$word; break;; esac; done\n\
        {script}\nexec $real \"$@\"\n",
        real(test).display(),
    );
    program(&path, &text);
    typed(&[Field::Text(6, path.to_str().expect("text"))])
}

/// A container under such a runtime.
pub fn wish(test: &Test, script: &str) -> Wish {
    Wish {
        options: Some(runtime(test, script)),
        streams: Streams::none(),
        ..Wish::default()
    }
}

/// A program with this text.
///
/// # Panics
/// When it can't be written.
pub fn program(path: &Path, text: &str) {
    fs::write(path, text).expect("a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}
