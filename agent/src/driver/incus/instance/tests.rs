//! What an instance is made from and known by, as Incus is told it and tells it.

use expect_test::expect;

use super::*;
use crate::driver::seed::tests::spec;

fn instance(json: Value) -> Instance {
    serde_json::from_value(json).unwrap()
}

#[test]
fn a_vps_as_an_instance() {
    let definition = Definition::new(&spec(), Some(b"#!/bin/sh\n"));
    let shown = serde_json::to_string_pretty(&definition.create(&spec(), "the-name", "default")).unwrap();
    expect![[r##"
        {
          "config": {
            "boot.autostart": "false",
            "cloud-init.network-config": "version: 2\nethernets:\n  eth0:\n    match:\n      macaddress: \"52:54:00:ab:01:ff\"\n    set-name: \"eth0\"\n    addresses:\n      - \"10.155.0.7/20\"\n      - \"2001:db8::7/64\"\n    routes:\n      - to: \"0.0.0.0/0\"\n        via: \"10.155.0.1\"\n      - to: \"::/0\"\n        via: \"fe80::1\"\n    nameservers:\n      addresses:\n        - \"10.155.0.1\"\n        - \"2001:db8::53\"\n",
            "cloud-init.user-data": "#!/bin/sh\n",
            "limits.cpu": "1",
            "limits.memory": "201326592",
            "raw.lxc": "lxc.uts.name = test-vps",
            "user.chom.build": "0",
            "user.chom.definition": "3a2b9d432aea2c9d218e9a924d731d6003da2cf930f0e8b414b4ff6605f80d32",
            "user.chom.given": "6a33398adb271f87e00cd33749e578ea4d3fe5f7ba37a9361f863703cfce171d",
            "user.chom.id": "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e",
            "user.chom.placement": "1",
            "user.meta-data": "instance-id: \"0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e\"\nlocal-hostname: \"test-vps\"\npublic-keys:\n  - \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 admin@example.org\"\n"
          },
          "devices": {
            "eth0": {
              "host_name": "ch-1f2a3b4c5d6e",
              "hwaddr": "52:54:00:ab:01:ff",
              "name": "eth0",
              "nictype": "bridged",
              "parent": "chom0",
              "type": "nic"
            },
            "root": {
              "path": "/",
              "pool": "default",
              "size": "1073741824",
              "type": "disk"
            }
          },
          "name": "the-name",
          "profiles": [],
          "source": {
            "fingerprint": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "type": "image"
          },
          "type": "container"
        }"##]].assert_eq(&shown);
}

#[test]
fn what_it_boots_with_is_part_of_its_definition_and_its_power_is_not() {
    let of = |change: fn(&mut VpsSpec)| {
        let mut spec = spec();
        change(&mut spec);
        digest(&spec)
    };
    let same = of(|_| {});
    assert_eq!(same, of(|spec| spec.power = chom_protocol::vps::Power::Stopped));
    assert_eq!(same, of(|spec| spec.start_count += 1));
    for changed in [
        of(|spec| spec.cores += 1),
        of(|spec| spec.memory.0 += 1 << 20),
        of(|spec| spec.disk.0 += 1 << 20),
        of(|spec| spec.name = "other".parse().unwrap()),
        of(|spec| spec.interface.mac[5] ^= 1),
        of(|spec| spec.ssh_keys.clear()),
        of(|spec| spec.placement += 1),
        of(|spec| spec.build += 1),
    ] {
        assert_ne!(same, changed);
    }
}

#[test]
fn a_copy_is_made_from_its_sources_snapshot() {
    let source = |snapshot| {
        let vps = VpsId::new(uuid::Uuid::from_u128(1));
        let spec = VpsSpec { source: Some(CloneSource { vps, snapshot }), ..spec() };
        Definition::new(&spec, None).create(&spec, "copy", "default")["source"].to_string()
    };
    let kept = chom_protocol::SnapshotId::new(uuid::Uuid::from_u128(2));
    expect![[r#"
        {"instance_only":true,"source":"chom-00000000-0000-0000-0000-000000000001/chom-clone-0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e","type":"copy"}
        {"instance_only":true,"source":"chom-00000000-0000-0000-0000-000000000001/chom-00000000-0000-0000-0000-000000000002","type":"copy"}"#]]
    .assert_eq(&[source(None), source(Some(kept))].join("\n"));
}

#[test]
fn what_was_given_is_not_changed_and_what_somebody_changed_is() {
    let given = Definition::new(&spec(), None).update("default");
    let changed = |change: fn(&mut Value)| {
        let mut now = given.clone();
        change(&mut now);
        now["name"] = GuestDefinition::guest_name(spec().id).into();
        instance(now).is_changed_by_hand()
    };
    assert!(!changed(|_| {}));
    // What Incus itself keeps, and devices beside ours, are nobody's business.
    assert!(!changed(|now| now["config"]["volatile.last_state.power"] = "RUNNING".into()));
    assert!(!changed(|now| now["devices"]["usb"] = json!({ "type": "usb" })));
    assert!(changed(|now| now["config"]["limits.memory"] = "1GiB".into()));
    assert!(changed(|now| now["config"]["boot.autostart"] = "true".into()));
    assert!(changed(|now| now["devices"]["root"]["size"] = "1GiB".into()));
    assert!(changed(|now| now["devices"]["eth0"]["hwaddr"] = "52:54:00:00:00:01".into()));
    assert!(changed(|now| drop(now["devices"].as_object_mut().unwrap().remove("eth0"))));
}

#[test]
fn ours_are_known_by_mark_and_name_and_half_made_ones_have_drifted() {
    let id = spec().id;
    let name = GuestDefinition::guest_name(id);
    let digest = Sha256::of(b"x");
    let marks = |more: Value| {
        let mut config = json!({
            "user.chom.id": id.to_string(), "user.chom.placement": "3", "user.chom.definition": digest.to_string(),
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let ours = |more: Value| {
        instance(json!({ "name": name, "status": "Stopped", "config": marks(more) })).observed()
    };
    let made = ours(json!({ "volatile.apply_template": "create" }));
    assert_eq!((made.vps, made.placement, made.definition), (Some(id), 3, Some(digest)));
    assert_eq!(ours(json!({ "volatile.last_state.power": "STOPPED" })).definition, Some(digest));
    assert_eq!(ours(json!({})).definition, Some(Sha256([0; 32])));
    let copy =
        instance(json!({ "name": "copy", "status": "Running", "config": marks(json!({})) })).observed();
    assert_eq!((copy.vps, copy.placement, copy.definition), (None, 0, None));
}

#[test]
fn of_what_is_being_removed_incus_tells_the_name_alone() {
    let listed = r#"{"name": "chom-x", "status": "Error", "config": null, "devices": null,
        "expanded_config": null, "expanded_devices": null, "type": "", "ephemeral": false, "state": null}"#;
    let instance: Instance = serde_json::from_str(listed).unwrap();
    assert!(instance.is_untold());
    assert_eq!((instance.vps(), instance.points().len()), (None, 0));
    let instance: Instance = serde_json::from_str(r#"{"name": "web", "config": {}}"#).unwrap();
    assert!(!instance.is_untold(), "a foreign one without configuration");
}

#[test]
fn what_incus_calls_a_state_is_one_of_ours() {
    let state = |status: &str| instance(json!({ "name": "x", "status": status })).state();
    let all = ["Running", "Stopping", "Frozen", "Stopped", "Error", "Wonderful"].map(state);
    expect![[r#"[Running, Running, Paused, Stopped, Unknown, Unknown]"#]].assert_eq(&format!("{all:?}"));
}

#[test]
fn one_state_gives_all_figures_and_what_is_missing_is_left_out() {
    let id = spec().id;
    let with = |state: Value| {
        let config = json!({ "user.chom.id": id.to_string() });
        let name = GuestDefinition::guest_name(id);
        let points =
            instance(json!({ "name": name, "status": "Running", "config": config, "state": state })).points();
        points
            .iter()
            .map(|point| format!("{:?} {} {}\n", point.metric, point.label, point.value))
            .collect::<String>()
    };
    expect![[r#"
        VpsCpuSeconds  0.025279793
        VpsMemory  761856
        VpsDiskAllocated root 4096
        VpsNetworkReceivedBytes net0 54
        VpsNetworkSentBytes net0 266
    "#]]
    .assert_eq(&with(json!({
        "cpu": { "usage": 25_279_793, "allocated_time": 1_000_000_000 },
        "memory": { "usage": 761_856, "total": 134_217_728 },
        "disk": { "root": { "usage": 4096, "total": 0 } },
        "network": {
            "eth0": { "counters": { "bytes_received": 54, "bytes_sent": 266 } },
            "lo": { "counters": { "bytes_received": 1, "bytes_sent": 1 } },
        },
    })));
    assert_eq!(with(json!({ "cpu": null, "memory": null, "disk": null, "network": null })), "");
}
