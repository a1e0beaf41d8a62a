//! A filesystem whose server does not answer: what a path in it costs who opens it.
//!
//! FUSE (linux/fuse.h, fuse(4)): its first request is answered, and no other is even
//! read. So who waits for one still dies of SIGKILL.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::case::Test;
use crate::runtime::wait_until;

/// One that is mounted; dropped, it is gone, and who waits for it gets an error.
pub struct Hung {
    /// Where it is mounted.
    pub path: PathBuf,
    device: Option<File>,
}

impl Hung {
    /// Mounts one for the case, in a directory of its own.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn mount(test: &Test) -> Hung {
        let path = test.directory.join(test.id()).join("hung");
        fs::create_dir_all(&path).expect("mkdir");
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let mut device = device.expect("/dev/fuse");
        let number = device.as_raw_fd();
        let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0,allow_other");
        let (source, kind) = (Some("hung"), Some("fuse"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(source, &path, kind, flags, Some(options.as_str())).expect("mount");
        let mut request = vec![0; 1 << 16];
        let length = device.read(&mut request).expect("FUSE_INIT");
        device
            .write_all(&initialized(&request[..length]))
            .expect("answer");
        Hung {
            path,
            device: Some(device),
        }
    }

    /// Waits until somebody waits for an answer.
    ///
    /// # Panics
    /// When nobody ever does.
    #[track_caller]
    pub fn is_asked(&self) {
        let device = self.device.as_ref().expect("until it is dropped");
        wait_until("a request", || {
            let mut asked = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
            poll(&mut asked, PollTimeout::ZERO).expect("poll") == 1
        });
    }
}

/// The answer to `FUSE_INIT`: a header and `struct fuse_init_out`.
fn initialized(request: &[u8]) -> Vec<u8> {
    let mut answer = vec![0; 16 + 64];
    answer[0..4].copy_from_slice(&80_u32.to_ne_bytes());
    answer[8..16].copy_from_slice(&request[8..16]);
    // The version of Linux 5.4.
    answer[16..20].copy_from_slice(&7_u32.to_ne_bytes());
    answer[20..24].copy_from_slice(&31_u32.to_ne_bytes());
    answer[36..40].copy_from_slice(&4096_u32.to_ne_bytes());
    answer
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.device = None;
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
