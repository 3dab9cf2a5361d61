//! Whole packets out of their fragments: netfilter puts packets together and cuts them again, netd lets fragments pass.

use netd_common::{host::build::internet_checksum, wire::protocol};

/// Fragments of packets that are not complete yet.
#[derive(Debug, Default)]
pub(super) struct Reassembly(Vec<Part>);

#[derive(Debug)]
struct Part {
    /// Addresses, protocol and identification.
    key: (Vec<u8>, u8, Vec<u8>),
    start: usize,
    is_last: bool,
    packet: Vec<u8>,
}

impl Reassembly {
    /// Takes a packet; returns it if it is whole, or the one that it completes.
    pub(super) fn add(&mut self, packet: Vec<u8>) -> Option<Vec<u8>> {
        let is_v6 = packet[0] >> 4 == 6;
        let part = if is_v6 { part6(packet) } else { part4(packet) };
        let part = match part {
            Ok(part) => part,
            Err(packet) => return Some(packet),
        };
        let key = part.key.clone();
        self.0.push(part);

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
        let next = first[40.min(first.len() - 1)];
        self.0.retain(|part| part.key != key);
        if is_v6 {
            // Without the fragment header.
            whole.drain(40..48);
            let length = (whole.len() - 40) as u16;
            whole[4..6].copy_from_slice(&length.to_be_bytes());
            whole[6] = next;
            return Some(whole);
        }
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

/// A fragment of IPv4; the packet, if it is none.
fn part4(packet: Vec<u8>) -> Result<Part, Vec<u8>> {
    let field = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
    if field == 0 {
        return Err(packet);
    }
    let key = (packet[12..20].to_vec(), packet[9], packet[4..6].to_vec());
    let start = usize::from(field & 0x1fff) * 8;
    Ok(Part { key, start, is_last: field & 0x2000 == 0, packet })
}

/// The same of IPv6, where the fragment header comes first.
fn part6(packet: Vec<u8>) -> Result<Part, Vec<u8>> {
    if packet.len() < 48 || packet[6] != protocol::FRAGMENT {
        return Err(packet);
    }
    let field = u16::from_be_bytes([packet[42], packet[43]]);
    let key = (packet[8..40].to_vec(), packet[40], packet[44..48].to_vec());
    Ok(Part { key, start: usize::from(field & !7), is_last: field & 1 == 0, packet })
}

fn header(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        6 => 48,
        _ => usize::from(packet[0] & 15) * 4,
    }
}

#[cfg(test)]
mod tests {
    use netd_common::host::build::{Body, Ip, Ip6, fragments, fragments6, ipv4_of, ipv6_of};

    use super::*;

    #[test]
    fn what_was_cut_is_whole_again() {
        let packet = Ip { id: 0, ..Ip::new([1, 2, 3, 4], [5, 6, 7, 8]) };
        let packet = ipv4_of(&packet, &Body::Udp(1, 2, vec![7; 100]));
        check(&packet, &fragments(&packet, 40));
        let packet = ipv6_of(&Ip6::new([1; 16], [2; 16]), &Body::Udp(1, 2, vec![7; 100]));
        check(&packet, &fragments6(&packet, 9, 40));
    }

    fn check(packet: &[u8], pieces: &[Vec<u8>]) {
        let mut reassembly = Reassembly::default();
        assert_eq!(pieces.len(), 3);
        for (first, second, third) in [(0, 1, 2), (2, 0, 1), (1, 2, 0)] {
            assert_eq!(reassembly.add(pieces[first].clone()), None);
            assert_eq!(reassembly.add(pieces[second].clone()), None);
            assert_eq!(reassembly.add(pieces[third].clone()), Some(packet.to_vec()));
        }
        assert_eq!(reassembly.add(packet.to_vec()), Some(packet.to_vec()));
    }
}
