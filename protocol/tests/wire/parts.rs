//! Desired state in parts: every part fits into a frame, and only the whole that was sent comes out.

use chom_protocol::api::vps_servers::{SSH_KEY_BYTES_MAX, SSH_KEYS_MAX};
use chom_protocol::host::HostSpec;
use chom_protocol::link::codec::{FRAME_BYTES_MAX, HEADER_BYTES, decode, encode};
use chom_protocol::link::v1::{SPEC_PART_BYTES, spec_digest, spec_parts};
use chom_protocol::link::{
    SPEC_BYTES_MAX, SPEC_ITEMS_MAX, SpecAssembly, SpecBegin, SpecError, SpecPart, ToAgent,
};
use chom_protocol::vps::Sha256;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::every::{host_spec, plain_vps, vps_id};

/// What the other side makes of the frames of a spec.
fn over_the_wire(spec: &HostSpec) -> Result<HostSpec, SpecError> {
    let (begin, parts, digest) = spec_parts(spec);
    let cross = |message: ToAgent| {
        let frame = encode(&message).unwrap();
        assert!(frame.len() <= HEADER_BYTES + FRAME_BYTES_MAX);
        decode::<ToAgent>(&frame[HEADER_BYTES..]).unwrap()
    };
    let ToAgent::SpecBegin(begin) = cross(ToAgent::SpecBegin(begin)) else { panic!("no beginning") };
    let mut assembly = SpecAssembly::begin(begin)?;
    for part in parts {
        let ToAgent::SpecPart(part) = cross(ToAgent::SpecPart(part)) else { panic!("no part") };
        assembly.add(part)?;
    }
    assembly.finish(digest)
}

/// A spec of VPSs that have so many keys of so many bytes each.
fn spec_with_keys(keys: &[(usize, usize)]) -> HostSpec {
    let mut spec = host_spec();
    spec.vps = (0..)
        .zip(keys)
        .map(|(number, &(count, bytes))| {
            let mut vps = plain_vps(number);
            vps.ssh_keys = vec!["k".repeat(bytes); count];
            (vps.id, vps)
        })
        .collect();
    spec
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        rng_seed: RngSeed::Fixed(0x0C40_0002),
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn every_part_fits_into_a_frame_and_the_whole_arrives(
        keys in prop::collection::vec((0..=SSH_KEYS_MAX, 1..=SSH_KEY_BYTES_MAX), 0..12),
    ) {
        let spec = spec_with_keys(&keys);
        prop_assert_eq!(over_the_wire(&spec).unwrap(), spec);
    }
}

#[test]
fn vpss_of_the_largest_kind_and_very_many_small_ones_fit() {
    for keys in [vec![(SSH_KEYS_MAX, SSH_KEY_BYTES_MAX); 3], vec![(1, 400); 2_000], vec![]] {
        let spec = spec_with_keys(&keys);
        assert_eq!(over_the_wire(&spec).unwrap(), spec);
    }
}

#[test]
fn parts_are_filled_up_to_their_target() {
    let (_, parts, _) = spec_parts(&spec_with_keys(&[(1, 4000); 1_000]));
    let sizes: Vec<_> = parts.iter().map(|p| encode(&ToAgent::SpecPart(p.clone())).unwrap().len()).collect();
    assert!(sizes.iter().all(|&bytes| bytes <= SPEC_PART_BYTES + 64), "{sizes:?}");
    assert!(sizes.len() <= 17, "{sizes:?}");
}

#[test]
fn the_digest_changes_with_anything_and_with_nothing_else() {
    let spec = host_spec();
    assert_eq!(spec_digest(&spec), spec_digest(&spec.clone()));
    let changes: [fn(&mut HostSpec); 7] = [
        |spec| spec.host = chom_protocol::HostId::new(vps_id(9).uuid()),
        |spec| spec.generation.epoch += 1,
        |spec| spec.settings.stop_grace_seconds += 1,
        |spec| spec.vps.values_mut().for_each(|vps| vps.hold = !vps.hold),
        |spec| spec.vps.values_mut().for_each(|vps| vps.placement += 1),
        |spec| spec.tombstones.clear(),
        |spec| spec.jobs.values_mut().for_each(|job| job.deadline.0 += 1),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut changed = spec.clone();
        change(&mut changed);
        assert_ne!(spec_digest(&changed), spec_digest(&spec), "change {number}");
    }
}

/// Assembles a spec after `change` was done to what was sent.
fn assembled(
    change: impl FnOnce(&mut SpecBegin, &mut Vec<SpecPart>, &mut Sha256),
) -> Result<HostSpec, SpecError> {
    let (mut begin, mut parts, mut digest) = spec_parts(&host_spec());
    change(&mut begin, &mut parts, &mut digest);
    let mut assembly = SpecAssembly::begin(begin)?;
    for part in parts {
        assembly.add(part)?;
    }
    assembly.finish(digest)
}

#[test]
fn a_spec_as_it_was_sent_is_taken() {
    assert_eq!(assembled(|_, _, _| {}).unwrap(), host_spec());
}

#[test]
fn a_spec_with_fewer_or_more_items_than_announced_is_refused() {
    let fewer = assembled(|_, parts, _| parts[0].jobs.clear()).unwrap_err();
    assert!(matches!(fewer, SpecError::Count { announced: 8, brought: 4, .. }), "{fewer}");
    let more = assembled(|_, parts, _| parts[0].vps.push(plain_vps(9))).unwrap_err();
    assert!(matches!(more, SpecError::Count { announced: 8, brought: 9, .. }), "{more}");
}

#[test]
fn an_item_that_comes_twice_is_refused_by_name() {
    let mut said = Vec::new();
    for copy in [
        |part: &mut SpecPart| part.vps.push(part.vps[0].clone()),
        |part: &mut SpecPart| part.tombstones.push(part.tombstones[0]),
        |part: &mut SpecPart| part.jobs.push(part.jobs[0].clone()),
        |part: &mut SpecPart| part.prefetch.push(part.prefetch[0].clone()),
    ] {
        let error = assembled(|begin, parts, _| {
            begin.items += 1;
            copy(&mut parts[0]);
        });
        said.push(error.unwrap_err().to_string());
    }
    expect_test::expect![[r#"
        desired state 1795392000.70000 brought VPS 0190f6d2-8f3e-7cc0-9d4c-000000000001 twice
        desired state 1795392000.70000 brought the tombstone of VPS 0190f6d2-8f3e-7cc0-9d4c-000000000003 twice
        desired state 1795392000.70000 brought job 0190f6d2-8f3e-7cc0-9d4c-000000000004 twice
        desired state 1795392000.70000 brought image tiny twice"#]]
    .assert_eq(&said.join("\n"));
}

#[test]
fn a_spec_with_another_digest_is_refused() {
    let wrong = assembled(|_, _, digest| digest.0[0] ^= 1).unwrap_err();
    assert!(matches!(wrong, SpecError::Digest { .. }), "{wrong}");
    let changed = assembled(|_, parts, _| parts[0].vps[0].cores += 1).unwrap_err();
    assert!(matches!(changed, SpecError::Digest { .. }), "{changed}");
}

#[test]
fn a_spec_that_is_too_large_is_refused_before_it_is_kept() {
    let many = assembled(|begin, _, _| begin.items = SPEC_ITEMS_MAX + 1).unwrap_err();
    assert!(matches!(many, SpecError::Large { .. }), "{many}");

    let mut vps = plain_vps(1);
    vps.ssh_keys = vec!["k".repeat(SSH_KEY_BYTES_MAX); SSH_KEYS_MAX];
    let part = |number| {
        let id = vps_id(number);
        SpecPart { vps: vec![chom_protocol::vps::VpsSpec { id, ..vps.clone() }], ..SpecPart::default() }
    };
    let (begin, _, _) = spec_parts(&host_spec());
    let mut assembly = SpecAssembly::begin(SpecBegin { items: SPEC_ITEMS_MAX, ..begin }).unwrap();
    let refused = (0..1000).find_map(|number| assembly.add(part(number)).err().map(|error| (number, error)));
    let (number, error) = refused.unwrap();
    assert!(matches!(error, SpecError::Bytes { .. }), "{error}");
    assert!(usize::from(number) * SSH_KEYS_MAX * SSH_KEY_BYTES_MAX <= SPEC_BYTES_MAX);
}
