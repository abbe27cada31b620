//! A small mesh in which everything is possible: few names, so that objects meet, hide one another, or name what is not there.
//!
//! Each object has passed admission. A [`World`] is edited object by object, as users and controllers do.

mod objects;
mod request;
mod rules;

use std::sync::Arc;

use serde_json::Value;
use undermesh_core::api::meta::{Key, ObjectMeta};
use undermesh_core::api::origin::Origin;
use undermesh_core::api::{Identity, Object, parse, parse_mesh_config};
use undermesh_core::inputs::{Inputs, Objects};

use crate::chance::Chance;

pub use request::request;

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// What is in it.
    pub inputs: Inputs,
}

impl World {
    /// A world of about so many objects.
    pub fn new(objects: usize, chance: &mut Chance) -> Self {
        let mut world = Self::default();
        for manifest in objects::registry(chance) {
            world.put(manifest);
        }
        for _ in 0..objects {
            world.edit(chance);
        }
        world
    }

    /// Changes one object: a new one, another version of one, or none any more. What admission refuses changes nothing.
    pub fn edit(&mut self, chance: &mut Chance) {
        if chance.once_in(50) {
            let meta =
                ObjectMeta { name: "istio".into(), namespace: "istio-system".into(), ..Default::default() };
            let parsed = parse_mesh_config(objects::mesh(chance), &meta, Origin::default());
            parsed.object.into_iter().for_each(|object| self.inputs.insert(object));
            return;
        }
        let manifest = objects::any(chance);
        if chance.once_in(4) {
            self.remove(manifest);
        } else {
            self.put(manifest);
        }
    }

    /// Puts an object in; `false` if admission refuses it.
    pub fn put(&mut self, manifest: Value) -> bool {
        let object = parse(manifest, Origin::default()).validated().object;
        let is_sound = object.is_some();
        object.into_iter().for_each(|object| self.inputs.insert(object));
        is_sound
    }

    /// Takes out the object of this manifest's kind and name.
    fn remove(&mut self, manifest: Value) {
        if let Some(identity) = parse(manifest, Origin::default()).identity {
            remove(&mut self.inputs, &identity);
        }
    }
}

fn remove(inputs: &mut Inputs, identity: &Identity) {
    fn from<T>(objects: &mut Objects<T>, key: &Key) {
        objects.remove(key);
    }
    let key = &identity.key;
    match identity.kind {
        "VirtualService" => from(&mut inputs.virtual_services, key),
        "DestinationRule" => from(&mut inputs.destination_rules, key),
        "Gateway" => from(&mut inputs.gateways, key),
        "ServiceEntry" => from(&mut inputs.service_entries, key),
        "WorkloadEntry" => from(&mut inputs.workload_entries, key),
        "Sidecar" => from(&mut inputs.sidecars, key),
        "Service" => from(&mut inputs.services, key),
        "EndpointSlice" => from(&mut inputs.endpoint_slices, key),
        "Pod" => from(&mut inputs.pods, key),
        "Node" => from(&mut inputs.nodes, key),
        "Namespace" => from(&mut inputs.namespaces, key),
        _ => inputs.mesh = None,
    }
}

/// The same objects in other allocations, as a source has them that reads everything anew.
pub fn read_anew(inputs: &Inputs) -> Inputs {
    fn each<T: Clone>(objects: &Objects<T>) -> Objects<T> {
        objects.iter().map(|(key, object)| (key.clone(), Arc::new((**object).clone()))).collect()
    }
    Inputs {
        mesh: inputs.mesh.as_ref().map(|mesh| Arc::new((**mesh).clone())),
        virtual_services: each(&inputs.virtual_services),
        destination_rules: each(&inputs.destination_rules),
        gateways: each(&inputs.gateways),
        service_entries: each(&inputs.service_entries),
        workload_entries: each(&inputs.workload_entries),
        sidecars: each(&inputs.sidecars),
        services: each(&inputs.services),
        endpoint_slices: each(&inputs.endpoint_slices),
        pods: each(&inputs.pods),
        nodes: each(&inputs.nodes),
        namespaces: each(&inputs.namespaces),
        ..inputs.clone()
    }
}

/// An object of any kind that the generator makes; for tests of one object.
pub fn object(chance: &mut Chance) -> Option<Object> {
    parse(objects::any(chance), Origin::default()).validated().object
}

#[cfg(test)]
mod tests {
    use undermesh_core::compile::compile;

    use super::*;

    #[test]
    fn most_of_what_is_made_is_sound_and_of_all_kinds() {
        let mut chance = Chance::new(1);
        let sound = (0..2_000).filter(|_| object(&mut chance).is_some()).count();
        assert!(sound > 1_600, "{sound}");
        let inputs = World::new(150, &mut chance).inputs;
        let sizes = [
            inputs.virtual_services.len(),
            inputs.destination_rules.len(),
            inputs.service_entries.len(),
            inputs.workload_entries.len(),
            inputs.sidecars.len(),
            inputs.services.len(),
            inputs.endpoint_slices.len(),
            inputs.pods.len(),
            inputs.nodes.len(),
        ];
        assert!(sizes.iter().all(|&size| size > 0), "{sizes:?}");
        assert!(compile(&inputs).snapshot.captures().count() > 3);
    }
}
