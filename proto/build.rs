//! Compiles the wire contracts with protox, so that a fresh machine needs no `protoc`.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "apache/rocketmq/v2/definition.proto",
        "apache/rocketmq/v2/service.proto",
        "millpond/v1/admin.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=api/{file}");
    }
    let descriptors = protox::compile(files, ["api"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Ordered maps: the same message encodes to the same bytes in every run.
        .btree_map(".")
        .bytes(".")
        .codec_path("crate::codec::WireCodec")
        .build_client(true)
        .build_server(true)
        .compile_fds(descriptors)?;
    Ok(())
}
