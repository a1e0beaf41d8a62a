//! What config.json asks for is what is there.

use crate::bundle::{Bundle, mount_at, mountinfo};

pub(crate) const CASES: &[crate::Case] = &[(
    "the bundle of runc spec has the mounts that runc gives it",
    the_default_bundle,
)];

fn the_default_bundle() {
    let info = Bundle::new().run(mountinfo).unwrap();
    println!("{info}");
    for (path, expected) in [("/proc", ["rw,relatime", "", "proc", "proc", "rw"])] {
        assert_eq!(mount_at(&info, path), expected, "{path}");
    }
}
