//! Until the reader of cgroups lands.
pub(crate) struct OomWatch;
impl std::fmt::Debug for OomWatch {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}
impl OomWatch {
    pub(crate) fn new(_: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self
    }
    pub(crate) fn watch(&self, _: &str, _: &crate::stats::Cgroups) {}
    pub(crate) fn finish(&self, _: &str) {}
}
