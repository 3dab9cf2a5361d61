//! Whole packets out of their fragments: netfilter puts packets together and cuts them again, netd lets fragments pass.

use netd_common::host::build::internet_checksum;

/// Fragments of packets that are not complete yet.
#[derive(Debug, Default)]
pub(super) struct Reassembly(Vec<Part>);

#[derive(Debug)]
struct Part {
    /// Addresses, protocol and identification.
    key: (Vec<u8>, u8, [u8; 2]),
    start: usize,
    is_last: bool,
    packet: Vec<u8>,
}

impl Reassembly {
    /// Takes a packet; returns it if it is whole, or the one that it completes.
    pub(super) fn add(&mut self, packet: Vec<u8>) -> Option<Vec<u8>> {
        let field = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
        if field == 0 {
            return Some(packet);
        }
        let key = (packet[12..20].to_vec(), packet[9], [packet[4], packet[5]]);
        let start = usize::from(field & 0x1fff) * 8;
        self.0.push(Part { key: key.clone(), start, is_last: field & 0x2000 == 0, packet });

        let mut parts: Vec<&Part> = self.0.iter().filter(|part| part.key == key).collect();
        parts.sort_by_key(|part| part.start);
        let mut payload = Vec::new();
        for part in &parts {
            if part.start != payload.len() {
                return None;
            }
            payload.extend_from_slice(&part.packet[header(&part.packet)..]);
        }
        if !parts.last()?.is_last {
            return None;
        }
        let first = &parts[0].packet;
        let mut whole = [&first[..header(first)], &payload].concat();
        self.0.retain(|part| part.key != key);
        let (total, header) = (whole.len() as u16, header(&whole));
        whole[2..4].copy_from_slice(&total.to_be_bytes());
        // Which identification it had is netd's choice.
        whole[4..6].fill(0);
        // The flags say nothing any more, but for DF.
        whole[6] &= 0x40;
        whole[10..12].fill(0);
        let sum = internet_checksum(&[&whole[..header]]);
        whole[10..12].copy_from_slice(&sum.to_be_bytes());
        Some(whole)
    }
}

fn header(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

#[cfg(test)]
mod tests {
    use netd_common::host::build::{Body, Ip, fragments, ipv4_of};

    use super::*;

    #[test]
    fn what_was_cut_is_whole_again() {
        let packet = Ip { id: 0, ..Ip::new([1, 2, 3, 4], [5, 6, 7, 8]) };
        let packet = ipv4_of(&packet, &Body::Udp(1, 2, vec![7; 100]));
        let mut reassembly = Reassembly::default();
        let pieces = fragments(&packet, 40);
        assert_eq!(pieces.len(), 3);
        for (first, second, third) in [(0, 1, 2), (2, 0, 1), (1, 2, 0)] {
            assert_eq!(reassembly.add(pieces[first].clone()), None);
            assert_eq!(reassembly.add(pieces[second].clone()), None);
            assert_eq!(reassembly.add(pieces[third].clone()), Some(packet.clone()));
        }
        assert_eq!(reassembly.add(packet.clone()), Some(packet));
    }
}
