//! The messages of the CRI suite, from `proto/cri.proto`, by a code generator
//! in Rust: no protoc is needed.

fn main() {
    println!("cargo::rerun-if-changed=proto/cri.proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .input("proto/cri.proto")
        .customize(protobuf_codegen::Customize::default().gen_mod_rs(true))
        .cargo_out_dir("cri")
        .run_from_script();
}
