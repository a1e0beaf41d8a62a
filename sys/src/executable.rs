//! The file that this process runs, changed while it runs.
//!
//! `/proc/PID/exe` names the file of the last execve(2). prctl(2) with
//! `PR_SET_MM_MAP` names another one, provided that nothing of the old one is
//! mapped any more. So its pages are first mapped from the new one, which must
//! have the same contents: the kernel keeps one copy of a file's pages, whichever
//! mount they are reached by, and code that runs goes on running.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::file::read_pseudo_bytes;
use super::{Error, Result};

/// `PR_SET_MM_MAP` (linux/prctl.h), since Linux 3.18 and for who may checkpoint
/// since 5.9.
const SET_MM_MAP: libc::c_int = 14;

/// `struct prctl_mm_map` (linux/prctl.h).
#[repr(C)]
#[derive(Debug, Default)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// A mapping of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    protection: libc::c_int,
    offset: i64,
}

/// Makes `file` the file that this process runs. It must be the same file as
/// now, on another mount. The process must have one thread and no signal
/// handlers.
///
/// # Errors
/// `EPERM` without `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN`, `EINVAL` before
/// Linux 5.9 and for a position-independent program, `EBUSY` for a filesystem whose mappings are not found by number.
/// The process runs on as before then.
pub fn replace(file: BorrowedFd<'_>) -> Result<()> {
    let number = file.as_raw_fd();
    if !is_where_it_was_linked() {
        return Err(Error::new("remap the program", Errno::EINVAL));
    }
    let stat = fstat(file).map_err(|errno| Error::new(format!("fstat([{number}])"), errno))?;
    let path = "/proc/self/maps";
    let text = read_pseudo_bytes(Path::new(path))?;
    // The paths, which may be no text, are not looked at.
    let text = String::from_utf8_lossy(&text);
    let device = (libc::major(stat.st_dev), libc::minor(stat.st_dev));
    let memory = layout(number)?;
    for mapping in mappings(&text, device, stat.st_ino) {
        if writable(&mapping) {
            copy(&mapping)?;
        } else {
            remap(&mapping, number)?;
        }
    }
    tell(&memory)
}

/// Empties `/proc/PID/cmdline` of this process. Its arguments stay where they are.
///
/// # Errors
/// `EINVAL` of a kernel that was built without it, those of reading
/// `/proc/self/stat`.
pub fn forget_arguments() -> Result<()> {
    let mut memory = layout(NO_FILE)?;
    memory.arg_end = memory.arg_start;
    tell(&memory)
}

/// `exe_fd` for a change that leaves the file alone.
const NO_FILE: i32 = -1;

/// Tells the kernel where things are.
fn tell(memory: &MemoryMap) -> Result<()> {
    // SAFETY: the struct is what the kernel asks for, lives across the call and
    // has its size with it; the kernel checks each address.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            SET_MM_MAP,
            std::ptr::from_ref(memory),
            size_of::<MemoryMap>(),
            0,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(Error::new(
            format!(
                "prctl(PR_SET_MM, PR_SET_MM_MAP, exe_fd={})",
                memory.exe_fd.cast_signed()
            ),
            Errno::last(),
        )),
    }
}

/// Where things are now (proc(5), /proc/PID/stat), and the file to be named.
fn layout(file: i32) -> Result<MemoryMap> {
    let path = "/proc/self/stat";
    let text = read_pseudo_bytes(Path::new(path))?;
    let text = String::from_utf8_lossy(&text);
    // The name, in brackets, may hold anything; the first word behind it is
    // field 3.
    let words: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    let field = |number: usize| {
        let word = words.get(number - 3);
        word.and_then(|word| word.parse().ok()).unwrap_or_default()
    };
    // SAFETY: an increment of 0 moves nothing.
    let brk = unsafe { libc::sbrk(0) };
    Ok(MemoryMap {
        start_code: field(26),
        end_code: field(27),
        start_stack: field(28),
        start_data: field(45),
        end_data: field(46),
        start_brk: field(47),
        brk: brk as u64,
        arg_start: field(48),
        arg_end: field(49),
        env_start: field(50),
        env_end: field(51),
        auxv: 0,
        auxv_size: 0,
        exe_fd: file.cast_unsigned(),
    })
}

/// The private mappings of this file in `/proc/PID/maps` (proc(5)).
fn mappings(text: &str, device: (u32, u32), inode: u64) -> Vec<Mapping> {
    text.lines()
        .filter_map(|line| mapping(line, device, inode))
        .collect()
}

/// `00200000-00294000 r--p 00000000 fe:00 131 /path`.
fn mapping(line: &str, device: (u32, u32), inode: u64) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let letters = words.next()?;
    let offset = words.next()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let its = (hex(major)?, hex(minor)?);
    if its != (device.0.into(), device.1.into()) || words.next()?.parse() != Ok(inode) {
        return None;
    }
    let bits = [
        ('r', libc::PROT_READ),
        ('w', libc::PROT_WRITE),
        ('x', libc::PROT_EXEC),
    ];
    let bits = bits.iter().filter(|(letter, _)| letters.contains(*letter));
    Some(Mapping {
        start: usize::try_from(hex(start)?).ok()?,
        end: usize::try_from(hex(end)?).ok()?,
        protection: bits.fold(0, |all, (_, bit)| all | bit),
        offset: i64::try_from(hex(offset)?).ok()?,
    })
}

/// Whether the program may have written to it: it belongs to a segment that is
/// loaded to be written. What is relocated and then protected does too.
fn writable(mapping: &Mapping) -> bool {
    program_headers().iter().any(|header| {
        let start = header.p_vaddr & !(PAGE - 1);
        let end = header.p_vaddr + header.p_memsz;
        header.p_type == libc::PT_LOAD
            && header.p_flags & libc::PF_W != 0
            && (mapping.start as u64) < end
            && start < mapping.end as u64
    })
}

/// Whether the addresses of the program headers are those in memory: not for a
/// program that is loaded anywhere (PIE), of which one can't tell here what was
/// written to.
fn is_where_it_was_linked() -> bool {
    let headers = program_headers();
    let place = headers.as_ptr() as u64;
    headers.iter().any(|header| {
        header.p_type == libc::PT_LOAD
            && (header.p_vaddr..header.p_vaddr + header.p_memsz).contains(&place)
    })
}

/// The smallest page; where pages are larger, segments are aligned to those.
const PAGE: u64 = 4096;

/// The program headers of this program.
fn program_headers() -> &'static [libc::Elf64_Phdr] {
    // SAFETY: getauxval takes an integer.
    let start = unsafe { libc::getauxval(libc::AT_PHDR) };
    // SAFETY: as above.
    let count = unsafe { libc::getauxval(libc::AT_PHNUM) };
    let count = usize::try_from(count).unwrap_or(0);
    if start == 0 {
        return &[];
    }
    // SAFETY: the kernel loaded this table with the program and says where it
    // is and how long; it is in a segment that is never written.
    unsafe { std::slice::from_raw_parts(start as *const libc::Elf64_Phdr, count) }
}

/// Maps the same bytes of the same file from its other mount.
fn remap(mapping: &Mapping, file: i32) -> Result<()> {
    let size = mapping.end - mapping.start;
    // SAFETY: the range is a mapping of the same file at the same offset and with
    // the same protection that was never written, so each byte stays what it
    // was, and the kernel exchanges the two in one step.
    let place = unsafe {
        libc::mmap(
            mapping.start as *mut libc::c_void,
            size,
            mapping.protection,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            file,
            mapping.offset,
        )
    };
    if place == libc::MAP_FAILED {
        let text = format!("mmap({size}, MAP_FIXED, [{file}])");
        return Err(Error::new(text, Errno::last()));
    }
    Ok(())
}

/// Puts a copy in place of what the program has written to, which belongs to
/// no file then.
fn copy(mapping: &Mapping) -> Result<()> {
    let size = mapping.end - mapping.start;
    let failed = |call: &str| Error::new(format!("{call}({size})"), Errno::last());
    // SAFETY: a new anonymous mapping touches no memory of ours.
    let copy = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if copy == libc::MAP_FAILED {
        return Err(failed("mmap"));
    }
    // SAFETY: both ranges are mapped and `size` long, the first readable (every
    // segment of ours is), the second new and so apart from it.
    unsafe { std::ptr::copy_nonoverlapping(mapping.start as *const u8, copy.cast::<u8>(), size) };
    // SAFETY: the range is the new mapping, which nobody else knows.
    if unsafe { libc::mprotect(copy, size, mapping.protection) } != 0 {
        return Err(failed("mprotect"));
    }
    // SAFETY: what comes to the old place is what was there: with one thread
    // and no signal handler nothing was written since it was copied (a
    // failure's text, which is, ends this), and the kernel exchanges the two in
    // one step.
    let moved = unsafe {
        libc::mremap(
            copy,
            size,
            size,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            mapping.start as *mut libc::c_void,
        )
    };
    if moved == libc::MAP_FAILED {
        return Err(failed("mremap"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_found_by_device_and_inode() {
        let text = "00200000-00294000 r--p 00000000 fe:00 131 /bin/rrun\n\
                    00294000-005c0000 r-xp 00093000 fe:00 131 /bin/rrun\n\
                    005c1000-005c6000 rw-p 003bf000 fe:00 131 /bin/rrun (deleted)\n\
                    005c9000-005cf000 rw-p 00000000 00:00 0 \n\
                    0d99d000-0d9bf000 rw-p 00000000 00:00 0 [heap]\n\
                    7f000000-7f001000 r--p 00000000 fe:00 132 /bin/other\n\
                    7f002000-7f003000 r--p 00000000 fe:01 131 /mnt/rrun\n";
        let expected = [
            (0x20_0000, 0x29_4000, libc::PROT_READ, 0),
            (
                0x29_4000,
                0x5c_0000,
                libc::PROT_READ | libc::PROT_EXEC,
                0x9_3000,
            ),
            (
                0x5c_1000,
                0x5c_6000,
                libc::PROT_READ | libc::PROT_WRITE,
                0x3b_f000,
            ),
        ];
        let expected = expected.map(|(start, end, protection, offset)| Mapping {
            start,
            end,
            protection,
            offset,
        });
        assert_eq!(mappings(text, (0xfe, 0), 131), expected);
    }
}
