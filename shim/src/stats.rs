//! Until the reader of cgroups lands.
use protobuf::well_known_types::any::Any;
use rrun::error::Result;
#[derive(Debug)]
pub(crate) struct Cgroups;
impl Cgroups {
    pub(crate) fn of(_: i32) -> Result<Self> {
        Ok(Self)
    }
    pub(crate) fn metrics(&self) -> Result<Any> {
        Ok(Any::default())
    }
}
