//! What an image or a config.json must not achieve.

pub(crate) const CASES: &[crate::Case] = &[];
