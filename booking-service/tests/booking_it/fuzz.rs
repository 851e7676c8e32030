//! Every field of every request with every kind of wrong value: no answer is a bug, and no state is wrong afterwards.

use std::collections::BTreeMap;

use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto};
use rowlock_proto::booking::v1 as pb;
use tonic::Code;
use tonic_types::StatusExt;

use crate::contract;
use crate::panics;
use crate::refusal::assert_refused;
use crate::scene::Scene;
use crate::system::at_once;

const NUMBERS: [u64; 9] =
    [0, 1, 2, 99, 1_001, i32::MAX as u64, i64::MAX as u64, u64::MAX, (i32::MIN as i64).cast_unsigned()];

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::Varint, &mut bytes);
    encode_varint(value, &mut bytes);
    bytes
}

fn text(number: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(value.len() as u64, &mut bytes);
    bytes.extend_from_slice(value);
    bytes
}

fn texts(ids: &[String]) -> Vec<Vec<u8>> {
    let mut texts: Vec<Vec<u8>> = ids.iter().map(|id| id.clone().into_bytes()).collect();
    let id = ids[0].clone();
    for text in [
        String::new(),
        " ".to_owned(),
        "\0".to_owned(),
        format!("{}\0", &id[..35]),
        "\u{1b}[31m\r\u{7f}".to_owned(),
        "x".to_owned(),
        "00000000-0000-0000-0000-000000000000".to_owned(),
        "ffffffff-ffff-ffff-ffff-ffffffffffff".to_owned(),
        format!("{{{id}}}"),
        id.replace('-', ""),
        format!(" {id}"),
        "' OR 1=1; --".to_owned(),
        "🎫\u{202e}\u{feff}".repeat(40),
        "AAAA".to_owned(),
        "A".repeat(1_024),
        "y".repeat(20_000),
    ] {
        texts.push(text.into_bytes());
    }
    texts.extend([vec![0xff, 0xfe], vec![0xc3, 0x28], vec![0xed, 0xa0, 0x80]]);
    texts
}

/// Wrong (and some right) encodings of one field, `depth` messages deep.
fn encodings(
    field: &FieldDescriptorProto,
    messages: &BTreeMap<String, DescriptorProto>,
    ids: &[String],
    depth: usize,
) -> Vec<Vec<u8>> {
    let number = u32::try_from(field.number()).unwrap();
    // Of another type than it has.
    let mut all = vec![varint(number, 1), text(number, b"\x01"), text(number, &[0xff; 12])];
    match field.r#type() {
        Type::String => all.extend(texts(ids).iter().map(|value| text(number, value))),
        Type::Message => {
            let message = &messages[field.type_name().trim_start_matches('.')];
            all.push(text(number, b""));
            for inner in message.field.iter().filter(|_| depth > 0) {
                let inner = encodings(inner, messages, ids, depth - 1);
                all.extend(inner.iter().map(|value| text(number, value)));
            }
            // Very many of them.
            let first =
                message.field.first().map(|inner| encodings(inner, messages, ids, 0)).unwrap_or_default();
            if let Some(value) = first.last() {
                all.push(text(number, value).repeat(40));
            }
        }
        _ => all.extend(NUMBERS.map(|value| varint(number, value))),
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_of_any_field_finds_a_bug() {
    panics::watch();
    let scene = Scene::set(2).await;
    let messages = contract::messages();
    let ids = [
        scene.open.event_id.clone(),
        scene.confirmed.registration_id.clone(),
        scene.waiting.entry_id.clone(),
        scene.system.new_id().to_string(),
    ];
    let mut calls = Vec::new();
    for (rpc, base) in scene.requests() {
        let input = &messages[&contract::rpcs()[rpc]];
        for field in &input.field {
            for value in encodings(field, &messages, &ids, 2) {
                // What comes last counts, so the field has this value and the others stay right.
                calls.push((rpc, [base.clone(), value].concat()));
            }
        }
    }
    assert!(calls.len() > 1_000, "{}", calls.len());
    let callers = [scene.system.admin(), scene.owner.clone(), scene.system.service(), scene.user.clone()];
    let chunks: Vec<Vec<_>> = calls.chunks(50).map(<[_]>::to_vec).collect();
    for chunk in chunks {
        let tried = chunk.into_iter().enumerate().map(|(n, (rpc, message))| {
            let caller = callers[if n % 4 == 0 { 1 + n / 4 % 3 } else { 0 }].clone();
            async move { (rpc, message.clone(), caller.call(rpc, message).await) }
        });
        for (rpc, message, answer) in at_once(tried.collect::<Vec<_>>()).await {
            let Err(status) = answer else { continue };
            let sample = &message[message.len().saturating_sub(60)..];
            let reason = status.get_details_error_info().map(|info| info.reason);
            let reason = reason.unwrap_or_else(|| panic!("{rpc} {sample:?}: {status:?}"));
            let bug = matches!(
                status.code(),
                Code::Internal | Code::Unknown | Code::Unavailable | Code::DeadlineExceeded
            );
            assert!(!bug, "{rpc} {sample:?}: {status:?}");
            assert_refused(&status, &reason);
        }
    }
    panics::assert_none();
    let events: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM events WHERE simulation_lease_time IS NULL")
            .fetch_all(&scene.system.pool)
            .await
            .unwrap();
    for event_id in events {
        scene.system.assert_consistent(&pb::Event { event_id, ..pb::Event::default() }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_message_are_the_callers_fault() {
    panics::watch();
    let scene = Scene::set(1).await;
    let admin = scene.system.admin();
    let before = scene.system.everything().await;
    for (rpc, base) in scene.requests() {
        let cut_off = [base.clone(), vec![0x0a, 0x7f, 0x61]].concat();
        let endless = [base.clone(), vec![0x08], vec![0xff; 11]].concat();
        let group = [base.clone(), vec![0x0b; 200]].concat();
        let no_field = [base.clone(), vec![0x00, 0x00]].concat();
        let reserved = [base.clone(), vec![0x0f]].concat();
        for bytes in [cut_off, endless, group, no_field, reserved, vec![0xff; 40]] {
            let status = admin.call(rpc, bytes.clone()).await.expect_err(rpc);
            assert_refused(&status, "VALIDATION_FAILED");
        }
    }
    assert_eq!(scene.system.everything().await, before);
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_refused_before_it_is_read() {
    let scene = Scene::set(1).await;
    let admin = scene.system.admin();
    let before = scene.system.everything().await;
    let limit = 1 << 20;
    for (rpc, base) in scene.requests() {
        // A field that nobody knows, so that only the size is wrong.
        let filling = |size: usize| [base.clone(), text(1_000, &vec![b'x'; size - base.len()])].concat();
        let refusal =
            assert_refused(&admin.call(rpc, filling(limit)).await.expect_err(rpc), "MESSAGE_TOO_LARGE");
        assert_eq!(refusal["max_bytes"], limit.to_string());
    }
    assert_eq!(scene.system.everything().await, before);
    let base = pb::GetEventRequest { event_id: scene.open.event_id.clone() };
    let base = prost::Message::encode_to_vec(&base);
    let most = [base.clone(), text(1_000, &vec![b'x'; limit - base.len() - 6])].concat();
    admin.call("EventService/GetEvent", most).await.unwrap();
}
