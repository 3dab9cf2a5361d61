//! Arrays in front of hash maps: see [`Place`].

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, MapData},
};
use netd_common::abi::Place;

/// Such an array.
pub(super) struct Places<K: Pod, V: Pod> {
    map: Array<MapData, Place<K, V>>,
    name: &'static str,
    /// What the places of no entry have for a key.
    nobody: K,
}

impl<K: Pod + PartialEq, V: Pod + PartialEq> Places<K, V> {
    pub(super) fn new(map: Array<MapData, Place<K, V>>, name: &'static str, nobody: K) -> Self {
        Self { map, name, nobody }
    }

    /// Gives an entry that is in the map already its place, if that is free. The entry's old value does not outlive this.
    ///
    /// # Errors
    /// The array cannot be read or written.
    pub(super) fn put(&mut self, place: u32, key: K, value: V) -> Result<()> {
        let old = self.read(place)?;
        if old.key == key {
            // What differs are flags: words, and each is whole at any time.
            return if old.value == value { Ok(()) } else { self.write(place, key, value) };
        }
        if old.key != self.nobody {
            return Ok(());
        }
        // The kernel may copy in any order: whoever sees the key must not see anything but the value.
        self.write(place, self.nobody, value)?;
        self.write(place, key, value)
    }

    /// Takes an entry's place back, if it has it. Before it goes from the map.
    ///
    /// # Errors
    /// The array cannot be read or written.
    pub(super) fn remove(&mut self, place: u32, key: K) -> Result<()> {
        let old = self.read(place)?;
        if old.key == key { self.write(place, self.nobody, old.value) } else { Ok(()) }
    }

    fn read(&self, place: u32) -> Result<Place<K, V>> {
        self.map.get(&place, 0).with_context(|| format!("reading map {}", self.name))
    }

    fn write(&mut self, place: u32, key: K, value: V) -> Result<()> {
        self.map.set(place, Place { key, value }, 0).with_context(|| format!("writing map {}", self.name))
    }
}
