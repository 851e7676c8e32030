//! Compiles every .proto file below `rowlock/`: the descriptor set for reflection, the Rust code, and a `Debug` that
//! hides secrets.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;
use protox::prost_reflect::prost_types::FileDescriptorSet;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};

fn main() -> Result<(), Box<dyn Error>> {
    let mut protos = Vec::new();
    collect_protos(Path::new("rowlock"), &mut protos)?;
    protos.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(&protos)?;

    // protox's own encoding, not one of the decoded set: prost would lose the options that it does not know.
    let encoded = compiler.encode_file_descriptor_set();
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("rowlock_descriptor.bin"), &encoded)?;

    let secretive = secretive_messages(&compiler.descriptor_pool());
    fs::write(out_dir.join("redacted_debug.rs"), redacted_debug(&secretive)?)?;

    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .btree_map(".")
        .codec_path("crate::codec::LeanCodec")
        .skip_debug(secretive.iter().map(MessageDescriptor::full_name))
        .compile_fds(FileDescriptorSet::decode(encoded.as_slice())?)?;
    Ok(())
}

/// Finds the .proto files below `folder`, and asks cargo to build again when one of them changes, comes or goes.
fn collect_protos(folder: &Path, protos: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_protos(&path, protos)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            println!("cargo:rerun-if-changed={}", path.display());
            protos.push(path);
        }
    }
    Ok(())
}

/// The messages with at least one field that is marked `debug_redact`.
fn secretive_messages(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    pool.all_messages().filter(|message| message.fields().any(|field| is_redacted(&field))).collect()
}

fn is_redacted(field: &FieldDescriptor) -> bool {
    field.options().get_field_by_name("debug_redact").is_some_and(|value| value.as_bool() == Some(true))
}

/// A `Debug` for each of `messages`, which are top-level, in which the redacted fields show nothing.
fn redacted_debug(messages: &[MessageDescriptor]) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    for message in messages {
        let path = message.full_name().trim_start_matches("rowlock.").replace('.', "::");
        writeln!(code, "impl ::core::fmt::Debug for {path} {{")?;
        writeln!(code, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
        writeln!(code, "        f.debug_struct({:?})", message.name())?;
        for field in message.fields() {
            let name = field.name();
            if is_redacted(&field) {
                writeln!(code, "            .field({name:?}, &\"[redacted]\")")?;
            } else {
                writeln!(code, "            .field({name:?}, &self.{name})")?;
            }
        }
        writeln!(code, "            .finish()\n    }}\n}}")?;
    }
    Ok(code)
}
