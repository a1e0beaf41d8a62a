//! What the class has and what was counted: `intel_rdt` of `events`.
//!
//! The fields and their names are runc's (types/events.go there).

use serde::Serialize;

use super::Groups;
use crate::cgroup::directory::Directory;
use crate::error::{Context, Result};
use crate::sys;

/// Shares and counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IntelRdt {
    /// What the L3 cache can be shared out by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<L3CacheInfo>,
    /// Shares of the L3 cache of the default class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    /// Shares of the L3 cache of the class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// What memory bandwidth can be shared out by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<MemBwInfo>,
    /// Shares of memory bandwidth of the default class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    /// Shares of memory bandwidth of the class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// All lines of the class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub schemata: String,
    /// Memory traffic, for each L3 cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_stats: Option<Vec<MbmStats>>,
    /// Occupancy, for each L3 cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmt_stats: Option<Vec<CmtStats>>,
}

/// `info/L3`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct L3CacheInfo {
    /// All bits of a mask, hexadecimal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cbm_mask: String,
    /// How many bits a mask must have.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_cbm_bits: u64,
    /// How many classes there can be.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_closids: u64,
}

/// `info/MB`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemBwInfo {
    /// The step of values.
    #[serde(skip_serializing_if = "is_zero")]
    pub bandwidth_gran: u64,
    /// Whether delay is linear in the value.
    #[serde(skip_serializing_if = "is_zero")]
    pub delay_linear: u64,
    /// The least value.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_bandwidth: u64,
    /// How many classes there can be.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_closids: u64,
}

/// Memory traffic behind one L3 cache, in bytes since the group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MbmStats {
    /// All of it.
    pub mbm_total_bytes: u64,
    /// That to the cache's own memory.
    pub mbm_local_bytes: u64,
}

/// Occupancy of one L3 cache, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CmtStats {
    /// What the group's data takes.
    pub llc_occupancy: u64,
}

impl Groups {
    /// What the class has, and what was counted: for the monitoring group if there
    /// is one, else for the whole class.
    ///
    /// # Errors
    /// A file that exists can't be read. What the kernel does not have is left out,
    /// and a counter that it can't tell (`Unavailable`) is zero.
    pub fn stats(&self) -> Result<IntelRdt> {
        self.read_stats().context(|| "read the resctrl statistics")
    }

    fn read_stats(&self) -> sys::Result<IntelRdt> {
        let root = &self.root;
        let class = self
            .groups
            .first()
            .map(|group| self.open_group(&group.path));
        let Some(class) = class.transpose()?.flatten() else {
            return Ok(IntelRdt::default());
        };
        let text =
            |directory: &Directory, file: &str| Ok(read(directory, file)?.unwrap_or_default());
        let schemata = text(&class, "schemata")?;
        let of_root = text(root, "schemata")?;
        let mut stats = IntelRdt {
            schemata: lines(&schemata, |_| true),
            ..IntelRdt::default()
        };
        let is_cache = |resource: &str| matches!(resource, "L3" | "L3CODE" | "L3DATA");
        for name in ["L3", "L3CODE", "L3DATA"] {
            if let Some(cbm_mask) = read(root, &format!("info/{name}/cbm_mask"))? {
                stats.l3_cache_info.get_or_insert(L3CacheInfo {
                    cbm_mask,
                    min_cbm_bits: number(root, &format!("info/{name}/min_cbm_bits"))?,
                    num_closids: number(root, &format!("info/{name}/num_closids"))?,
                });
                stats.l3_cache_schema_root = lines(&of_root, is_cache);
                stats.l3_cache_schema = lines(&schemata, is_cache);
            }
        }
        if read(root, "info/MB/num_closids")?.is_some() {
            stats.mem_bw_info = Some(MemBwInfo {
                bandwidth_gran: number(root, "info/MB/bandwidth_gran")?,
                delay_linear: number(root, "info/MB/delay_linear")?,
                min_bandwidth: number(root, "info/MB/min_bandwidth")?,
                num_closids: number(root, "info/MB/num_closids")?,
            });
            let is_bandwidth = |resource: &str| resource == "MB";
            stats.mem_bw_schema_root = lines(&of_root, is_bandwidth);
            stats.mem_bw_schema = lines(&schemata, is_bandwidth);
        }
        self.count(&mut stats)?;
        Ok(stats)
    }

    /// Reads the counters of the innermost group that is there.
    fn count(&self, stats: &mut IntelRdt) -> sys::Result<()> {
        let features = read(&self.root, "info/L3_MON/mon_features")?.unwrap_or_default();
        let has = |feature: &str| features.lines().any(|line| line.trim() == feature);
        let moves = has("mbm_total_bytes") || has("mbm_local_bytes");
        let occupies = has("llc_occupancy");
        let mut groups = self.groups.iter().rev();
        let group = groups.find_map(|group| self.open_group(&group.path).transpose());
        let Some(group) = group.transpose()? else {
            return Ok(());
        };
        if !moves && !occupies {
            return Ok(());
        }
        let data = group.child("mon_data")?;
        let mut caches = data.children()?;
        caches.retain(|name| name.as_encoded_bytes().starts_with(b"mon_L3_"));
        caches.sort();
        let (mut mbm, mut cmt) = (Vec::new(), Vec::new());
        for name in caches {
            let cache = data.child(name)?;
            mbm.push(MbmStats {
                mbm_total_bytes: number(&cache, "mbm_total_bytes")?,
                mbm_local_bytes: number(&cache, "mbm_local_bytes")?,
            });
            cmt.push(CmtStats {
                llc_occupancy: number(&cache, "llc_occupancy")?,
            });
        }
        stats.mbm_stats = moves.then_some(mbm);
        stats.cmt_stats = occupies.then_some(cmt);
        Ok(())
    }
}

/// The text of a file without its last line end, nothing if there is none.
fn read(directory: &Directory, file: &str) -> sys::Result<Option<String>> {
    match directory.read(file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if crate::cgroup::directory::is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn number(directory: &Directory, file: &str) -> sys::Result<u64> {
    let text = read(directory, file)?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// The lines of `schemata` for those resources, without the kernel's padding.
fn lines(schemata: &str, wanted: impl Fn(&str) -> bool) -> String {
    let lines = schemata.lines().map(str::trim);
    let wanted = lines.filter(|line| {
        let resource = line.split(':').next().unwrap_or_default();
        !line.is_empty() && wanted(resource.trim())
    });
    wanted.collect::<Vec<_>>().join("\n")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}
