//! The table of [`netd_common::host::cases`] through the core on the host.

use netd_common::{
    Drop, To, V4, Way,
    host::{
        Frame, Memory,
        cases::{Case, Fate, World, cases, run},
    },
};

const WORLD: World = World::new([11, 12, 13, 20, 30]);

/// In what form packets come: it makes no difference to what becomes of them.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// All bytes are within reach.
    Plain,
    /// Those that a program begins with where the driver gives it the Ethernet header alone: with IPv4, its options and TCP's header.
    OnlyHeaders,
    /// The least that a program begins with: IPv4's header and TCP's, without options. IPv6's programs want more.
    ShortHeaders,
    /// The device has summed them up.
    SummedUp,
}

impl Form {
    fn frame(self, bytes: &[u8]) -> Frame {
        let frame = Frame::new(bytes);
        match self {
            Self::Plain => frame,
            Self::OnlyHeaders => frame.reaching(94),
            Self::ShortHeaders => {
                frame.reaching(if bytes.get(12..14) == Some(&[0x86, 0xdd]) { 94 } else { 54 })
            }
            Self::SummedUp => frame.summed_up(),
        }
    }
}

fn check(case: &Case, form: Form) {
    check_with(&WORLD.tables(), case, form);
}

fn check_with(tables: &Memory<V4>, case: &Case, form: Form) {
    for (number, step) in case.steps.iter().enumerate() {
        let what = format!("{} ({form:?}), packet {}", case.name, number + 1);
        let (ways, drops) = (tables.ways.borrow().clone(), tables.drops.borrow().clone());
        let mut frame = form.frame(&step.frame);
        let verdict = run(&WORLD, tables, step.at, &mut frame);
        assert_eq!(step.fixed(&frame.bytes), step.fixed(&step.after), "{what}: bytes");
        // Whose kernel looks at it: a container's.
        if matches!(step.fate, Fate::Goes(To::Peer | To::Link, _)) {
            assert!(frame.is_sum_right(), "{what}: the device's sum");
        }
        let (mut expected_ways, mut expected_drops) = (ways, drops);
        let counter = match step.fate {
            Fate::Goes(to, way) => {
                assert_eq!(verdict.to, to, "{what}");
                Some(expected_ways.entry(way as u32).or_default())
            }
            Fate::Passes => {
                assert_eq!(verdict.to, To::Stack, "{what}");
                None
            }
            Fate::Answered(reason) => {
                assert_eq!(verdict.to, To::Link, "{what}");
                let told = expected_ways.entry(Way::ErrorSent as u32).or_default();
                told.packets += 1;
                told.bytes += step.frame.len() as u64;
                Some(expected_drops.entry(reason as u32).or_default())
            }
            Fate::Dropped(reason) => {
                assert_eq!(verdict.to, To::Drop, "{what}");
                Some(expected_drops.entry(reason as u32).or_default())
            }
        };
        if let Some(counter) = counter {
            counter.packets += 1;
            counter.bytes += step.frame.len() as u64;
        }
        assert_eq!(*tables.ways.borrow(), expected_ways, "{what}: ways");
        assert_eq!(*tables.drops.borrow(), expected_drops, "{what}: drops");
    }
}

#[test]
fn every_case_goes_as_the_table_says() {
    for case in cases(&WORLD) {
        for form in [Form::Plain, Form::OnlyHeaders, Form::ShortHeaders, Form::SummedUp] {
            check(&case, form);
        }
    }
}

/// The longest prefix counts, as in the kernel, and not the one that is listed first.
#[test]
fn the_order_of_routes_makes_no_difference() {
    for case in cases(&WORLD) {
        let mut tables = WORLD.tables();
        tables.routes.reverse();
        tables.v6.iter_mut().for_each(|v6| v6.routes.reverse());
        check_with(&tables, &case, Form::Plain);
    }
}

/// Reasons that no case of the table provokes, and a test that does: its file here, and its name.
const ELSEWHERE: [(Drop, &str, &str); 4] = [
    (Drop::Denied, include_str!("xdp.rs"), "denied_sources"),
    (Drop::FlowTableFull, include_str!("drops.rs"), "a_full_table_refuses_new_flows_and_keeps_the_old"),
    (Drop::PortsExhausted, include_str!("drops.rs"), "no_port_left_towards_one_destination"),
    (Drop::Rewrite, include_str!("drops.rs"), "a_packet_that_cannot_be_written"),
];

/// Whether a file has a test of that name which counts on drops for that reason.
fn provokes(text: &str, test: &str, reason: Drop) -> bool {
    let Some((_, rest)) = text.split_once(&format!("#[test]\nfn {test}() {{\n")) else { return false };
    let body = rest.split_once("\n}\n").map_or(rest, |(body, _)| body);
    let named = format!("Drop::{reason:?}");
    body.lines().any(|line| line.contains("assert") && line.contains(&named))
}

#[test]
fn every_reason_is_provoked() {
    let cases = cases(&WORLD);
    for reason in Drop::ALL {
        let in_table = cases
            .iter()
            .flat_map(|case| &case.steps)
            .any(|step| [Fate::Dropped(*reason), Fate::Answered(*reason)].contains(&step.fate));
        let elsewhere = ELSEWHERE.iter().find(|(other, ..)| other == reason);
        match elsewhere {
            None => assert!(in_table, "no test provokes {}", reason.label()),
            Some(_) if in_table => {
                panic!("the table provokes {}: no need to name another test", reason.label())
            }
            Some((_, text, test)) => {
                assert!(provokes(text, test, *reason), "{test} does not provoke {}", reason.label());
            }
        }
    }
}

#[test]
fn a_test_that_is_not_there_provokes_nothing() {
    let text = "#[test]\nfn one() {\n    assert_eq!(dropped(Drop::Vlan), 1);\n}\n\n#[test]\nfn two() {\n    let _ = Drop::Vlan;\n}\n";
    assert!(provokes(text, "one", Drop::Vlan));
    assert!(
        !provokes(text, "one", Drop::Denied)
            && !provokes(text, "two", Drop::Vlan)
            && !provokes(text, "on", Drop::Vlan)
    );
}
