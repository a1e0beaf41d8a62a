//! The messages that carry a shim's options, as containerd's clients send them.

use containerd_shim_protos::protobuf::CodedOutputStream;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// A string or bytes.
    Text(u32, &'a str),
    /// A number or a truth.
    Number(u32, u64),
}

/// An `Any` of this type.
///
/// # Panics
/// Never: memory takes every field.
pub fn any(url: &str, fields: &[Field<'_>]) -> Any {
    let mut value = Vec::new();
    let mut stream = CodedOutputStream::vec(&mut value);
    for field in fields {
        match field {
            Field::Text(number, text) => stream.write_string(*number, text),
            Field::Number(number, value) => stream.write_uint64(*number, *value),
        }
        .expect("a field");
    }
    stream.flush().expect("flush");
    drop(stream);
    Any {
        type_url: url.to_owned(),
        value,
        ..Any::default()
    }
}

/// `containerd.runc.v1.Options`, which CRI sends to `io.containerd.runc.v2`
/// and `ctr` to every runtime.
pub fn typed(fields: &[Field<'_>]) -> Any {
    any("containerd.runc.v1.Options", fields)
}

/// `runtimeoptions.v1.Options`, which CRI sends to a runtime of any other name:
/// the table of the configuration as TOML.
pub fn toml(body: &str) -> Any {
    any("runtimeoptions.v1.Options", &[Field::Text(3, body)])
}
