//! What containerd says at `start`, and what it wants to hear.
//!
//! | containerd | standard input | `MAX_SHIM_VERSION` | answer |
//! |---|---|---|---|
//! | 1.6 | options as Any, or nothing | not set | the address |
//! | 1.7, 2.0 to 2.2 | the same | 2 | JSON with version 2 |
//! | 2.3 and newer | BootstrapParams | 2 | BootstrapResult with version 3 |
//!
//! Both messages have text in their fields 1 and 2, so one parses as the other:
//! it is BootstrapParams if it names the container and the namespace that the
//! flags name.

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use rrun::error::{Error, Kind, Result};

use crate::cli::Invocation;

/// What containerd says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Request {
    /// Up to containerd 2.2.
    Legacy(Option<Any>),
    /// Since containerd 2.3.
    Bootstrap(Box<BootstrapParams>, Option<Any>),
}

impl Request {
    /// Parses standard input.
    ///
    /// # Errors
    /// It is neither form.
    pub(super) fn parse(input: &[u8], invocation: &Invocation) -> Result<Self> {
        if let Ok(params) = BootstrapParams::parse_from_bytes(input)
            && !input.is_empty()
            && params.instance_id == invocation.id
            && params.namespace == invocation.namespace
        {
            let options = params
                .extensions
                .iter()
                .filter_map(|extension| extension.value.as_ref())
                .find(|value| value.type_url.ends_with(".Options"))
                .cloned();
            return Ok(Self::Bootstrap(Box::new(params), options));
        }
        read_any(input).map(Self::Legacy)
    }

    /// The options of the runtime.
    pub(super) fn options(&self) -> Option<&Any> {
        match self {
            Self::Legacy(options) | Self::Bootstrap(_, options) => options.as_ref(),
        }
    }

    /// Where the socket is to be; empty for the default.
    pub(super) fn socket_dir(&self) -> &str {
        match self {
            Self::Legacy(_) => "",
            Self::Bootstrap(params, _) => params.socket_dir(),
        }
    }

    /// Where events go, if it was said here.
    pub(super) fn ttrpc_address(&self) -> Option<&str> {
        match self {
            Self::Bootstrap(params, _) if !params.containerd_ttrpc_address.is_empty() => {
                Some(&params.containerd_ttrpc_address)
            }
            _ => None,
        }
    }

    /// Whether debug lines are wanted; negative levels are debug and trace.
    pub(super) fn debug(&self) -> bool {
        match self {
            Self::Legacy(_) => false,
            Self::Bootstrap(params, _) => params.log_level.value() < 0,
        }
    }

    /// The answer that this containerd reads; `versioned` if it said how new a
    /// shim may be.
    pub(super) fn answer(&self, address: &str, versioned: bool) -> Vec<u8> {
        match self {
            Self::Bootstrap(..) => {
                let result = BootstrapResult {
                    version: 3,
                    address: address.to_owned(),
                    protocol: "ttrpc".to_owned(),
                    ..BootstrapResult::default()
                };
                // A message of numbers and text always encodes.
                result.write_to_bytes().unwrap_or_default()
            }
            Self::Legacy(_) if versioned => {
                let json = serde_json::json!({
                    "version": 2, "address": address, "protocol": "ttrpc",
                });
                json.to_string().into_bytes()
            }
            Self::Legacy(_) => address.as_bytes().to_vec(),
        }
    }
}

/// The Any on standard input; nothing if there is no input.
///
/// # Errors
/// It is no Any.
pub(crate) fn read_any(input: &[u8]) -> Result<Option<Any>> {
    if input.is_empty() {
        return Ok(None);
    }
    let any = Any::parse_from_bytes(input).map_err(|error| {
        let text = format!("standard input: neither options nor bootstrap parameters: {error}");
        Error::new(Kind::InvalidConfig, text)
    })?;
    Ok(Some(any))
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::{Extension, LogLevel};
    use protobuf::MessageField;

    use super::*;

    fn invocation() -> Invocation {
        Invocation {
            id: "io.web".to_owned(),
            namespace: "ns".to_owned(),
            ..Invocation::default()
        }
    }

    fn options() -> Any {
        Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: vec![0x48, 1],
            ..Any::default()
        }
    }

    fn params() -> BootstrapParams {
        BootstrapParams {
            instance_id: "io.web".to_owned(),
            namespace: "ns".to_owned(),
            containerd_ttrpc_address: "/c.ttrpc".to_owned(),
            extensions: vec![Extension {
                value: MessageField::some(options()),
                ..Extension::default()
            }],
            socket_dir: Some("/s".to_owned()),
            log_level: LogLevel::LOG_LEVEL_DEBUG.into(),
            ..BootstrapParams::default()
        }
    }

    #[test]
    fn the_forms_of_standard_input_are_told_apart() {
        // An Any that parses as BootstrapParams: field 1 is the type, 2 the value.
        let look_alike = Any {
            type_url: "io.web".to_owned(),
            value: b"other".to_vec(),
            ..Any::default()
        };
        let bytes = |any: &Any| any.write_to_bytes().unwrap();
        for (name, input, wanted) in [
            ("nothing", Vec::new(), Request::Legacy(None)),
            (
                "options",
                bytes(&options()),
                Request::Legacy(Some(options())),
            ),
            (
                "look-alike",
                bytes(&look_alike),
                Request::Legacy(Some(look_alike)),
            ),
            (
                "bootstrap",
                params().write_to_bytes().unwrap(),
                Request::Bootstrap(Box::new(params()), Some(options())),
            ),
        ] {
            assert_eq!(Request::parse(&input, &invocation()), Ok(wanted), "{name}");
        }
        let error = Request::parse(b"\x0a\xff", &invocation()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("standard input: neither options nor bootstrap parameters: "),
            "{error}"
        );
    }

    #[test]
    fn each_containerd_gets_the_answer_it_reads() {
        let address = "unix:///s/x";
        let legacy = Request::Legacy(None);
        assert_eq!(legacy.answer(address, false), address.as_bytes());
        let json = legacy.answer(address, true);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"})
        );
        let bootstrap = Request::Bootstrap(Box::new(params()), None);
        assert!(bootstrap.debug());
        assert_eq!(bootstrap.socket_dir(), "/s");
        assert_eq!(bootstrap.ttrpc_address(), Some("/c.ttrpc"));
        let result = bootstrap.answer(address, true);
        // Fields 1 (number), 2 and 3 (text), by hand.
        let mut wanted = vec![0x08, 3, 0x12, 11];
        wanted.extend(address.as_bytes());
        wanted.extend([0x1a, 5]);
        wanted.extend(b"ttrpc");
        assert_eq!(result, wanted);
    }
}
