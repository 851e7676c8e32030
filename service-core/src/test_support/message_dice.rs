//! Messages made by dice, for the decoders and validators of a contract.

use std::collections::BTreeMap;

use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// How deep messages within messages go.
const DEPTH: u32 = 3;
/// As a page token or a refresh token has it.
const BASE64: &[u8] = b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4";
const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;

/// Dice that make messages of a contract: mostly of the right types, with the values that break things, and then often
/// damaged as a line may damage them.
#[derive(Debug)]
pub struct MessageDice {
    dice: SmallRng,
    types: BTreeMap<String, DescriptorProto>,
    words: &'static [&'static str],
}

impl MessageDice {
    /// Dice that always fall alike. `words` are some that mean something to the service, such as names of fields.
    #[must_use]
    pub fn new(set: FileDescriptorSet, seed: u64, words: &'static [&'static str]) -> Self {
        let mut types = BTreeMap::new();
        for file in set.file {
            let package = file.package().to_owned();
            for message in file.message_type {
                for nested in &message.nested_type {
                    types.insert(format!("{package}.{}.{}", message.name(), nested.name()), nested.clone());
                }
                types.insert(format!("{package}.{}", message.name()), message);
            }
        }
        Self { dice: SmallRng::seed_from_u64(seed), types, words }
    }

    /// The bytes of what may be a message of this type, by its full name.
    ///
    /// # Panics
    /// If there is no such type.
    pub fn message(&mut self, of: &str) -> Vec<u8> {
        let mut bytes = self.whole(of, DEPTH);
        for _ in 0..self.dice.random_range(0..4) {
            self.damage(&mut bytes);
        }
        bytes
    }

    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        *all.get(self.dice.random_range(0..all.len())).expect("the dice have as many sides")
    }

    fn whole(&mut self, of: &str, depth: u32) -> Vec<u8> {
        let of = self.types.get(of).unwrap_or_else(|| panic!("no message {of}")).clone();
        let mut bytes = Vec::new();
        for field in &of.field {
            for _ in 0..self.one_of(&[0, 1, 1, 1, 1, 2]) {
                self.field(field, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(&mut self, field: &FieldDescriptorProto, depth: u32, bytes: &mut Vec<u8>) {
        let number = u64::from(field.number().unsigned_abs());
        let content = match field.r#type() {
            Type::String | Type::Bytes => self.text(),
            Type::Message if depth > 0 => self.whole(field.type_name().trim_start_matches('.'), depth - 1),
            Type::Message => Vec::new(),
            _ => {
                varint(number << 3 | VARINT, bytes);
                let value = match self.dice.random_range(0..4) {
                    0 => self.dice.random_range(0..4),
                    1 => self.dice.random_range(0..2_000_000_000),
                    2 => u64::MAX - self.dice.random_range(0..3),
                    _ => self.dice.random(),
                };
                return varint(value, bytes);
            }
        };
        varint(number << 3 | LENGTH_DELIMITED, bytes);
        varint(content.len() as u64, bytes);
        bytes.extend(content);
    }

    fn text(&mut self) -> Vec<u8> {
        let dice = &mut self.dice;
        match dice.random_range(0..8) {
            0 | 1 => Uuid::from_u128(dice.random()).to_string().into_bytes(),
            2 => Vec::new(),
            3 => (0..dice.random_range(0..40)).map(|_| dice.random()).collect(),
            4 => {
                (0..dice.random_range(0..300)).map(|_| dice.random::<char>()).collect::<String>().into_bytes()
            }
            5 => self.one_of(self.words).into(),
            6 => BASE64.iter().copied().take(dice.random_range(0..BASE64.len())).collect(),
            _ => vec![b'x'; dice.random_range(0..12_000)],
        }
    }

    /// What a line does to a message on its way.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.dice.random_range(0..=bytes.len());
        match self.dice.random_range(0..4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, self.dice.random()),
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.dice.random_range(0..8);
                }
            }
            _ => bytes.extend_from_within(at..),
        }
    }
}

/// As the encoding of messages has whole numbers: seven bits at a time, the least first.
fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}
