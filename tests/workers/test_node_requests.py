"""The process that asks Ray for nodes keeps as many placement groups as the service has asked for lately."""

from __future__ import annotations

from typing import Any

from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.core.generated import autoscaler_pb2, common_pb2

from search_spaces.node_requests import SILENCE_S, NodeRequests, SlotRequest
from tests.support.clock import Clock
from workers.node_requests import Keeper


class MemoryGroups:
    """Groups by number; a test says which Ray could place."""

    def __init__(self) -> None:
        self.made = 0
        self.held: dict[int, SlotRequest] = {}
        self.with_room: set[int] = set()

    def create(self, request: SlotRequest) -> Any:
        self.made += 1
        self.held[self.made] = request
        return self.made

    def placed(self) -> set[int]:
        return self.with_room

    def remove(self, group: Any) -> None:
        del self.held[group]


def slots(count: int, gpus: float = 1, **selector: str) -> SlotRequest:
    return SlotRequest(cpus=2, gpus=gpus, selector=selector, count=count)


def asks(sequence: int, *requests: SlotRequest, keeper: str = "k") -> NodeRequests:
    return NodeRequests(keeper=keeper, sequence=sequence, requests=list(requests))


def test_a_slot_is_named_as_ray_names_it() -> None:
    assert slots(1).resources == {"CPU": 2, "GPU": 1}
    assert slots(1, gpus=0).resources == {"CPU": 2}


def test_groups_follow_what_is_asked_for() -> None:
    groups, clock = MemoryGroups(), Clock()
    keeper = Keeper("k", groups, clock.monotonic)
    assert keeper.look(asks(1, slots(3), slots(1, gpus=2)))
    assert [one.gpus for one in groups.held.values()] == [1, 1, 1, 2]
    assert keeper.look(asks(2, slots(2)))
    assert sorted(groups.held) == [1, 2]
    assert keeper.look(asks(3, slots(2, zone="b"), slots(1)))
    assert [one.selector for one in groups.held.values()] == [{}, {"zone": "b"}, {"zone": "b"}]
    assert keeper.look(asks(4))
    assert not groups.held


def test_the_room_of_a_new_node_is_given_back_at_once() -> None:
    groups, clock = MemoryGroups(), Clock()
    keeper = Keeper("k", groups, clock.monotonic)
    keeper.look(asks(1, slots(2)))
    groups.with_room = {1, 77}
    for _ in range(3):
        assert keeper.look(asks(1, slots(2)))
        assert sorted(groups.held) == [2]
    assert keeper.look(asks(2, slots(2)))  # the service has seen the node by now, and asks all the same
    assert sorted(groups.held) == [2, 3]


def test_nothing_is_kept_for_a_service_that_is_silent() -> None:
    groups, clock = MemoryGroups(), Clock()
    keeper = Keeper("k", groups, clock.monotonic)
    assert keeper.look(asks(1, slots(2)))
    clock.sleep(SILENCE_S)
    assert keeper.look(asks(1, slots(2)))
    assert keeper.look(None)
    assert len(groups.held) == 2
    clock.sleep(1)
    assert not keeper.look(None)
    assert not groups.held


def test_it_ends_once_another_process_asks() -> None:
    groups, clock = MemoryGroups(), Clock()
    keeper = Keeper("k", groups, clock.monotonic)
    assert keeper.look(asks(1, slots(2)))
    assert not keeper.look(asks(2, slots(2), keeper="another"))
    assert not groups.held


def test_rays_scheduler_adds_as_many_nodes_as_it_may_for_groups_that_no_living_node_may_take() -> None:
    """One request for all bundles (`request_resources`) would add none: it is fulfilled completely or not at all."""
    room: Any = {"min_worker_nodes": 0, "max_worker_nodes": 2, "resources": {"CPU": 8, "GPU": 4}}
    bundle = autoscaler_pb2.ResourceRequest(resources_bundle=slots(1).resources)
    here = bundle.label_selectors.add().label_constraints
    here.add(label_key="ray.io/node-id", operator=common_pb2.LABEL_OPERATOR_NOT_IN, label_values=["aa", "bb"])
    here.add(label_key="zone", operator=common_pb2.LABEL_OPERATOR_IN, label_values=["a"])
    together = autoscaler_pb2.ResourceRequestByCount(request=bundle, count=12)

    def added(groups: int, constraints: list[Any]) -> dict[str, int]:
        decided = ResourceDemandScheduler(None).schedule(
            SchedulingRequest(
                node_type_configs={
                    "ours": NodeTypeConfig(name="ours", labels={"zone": "a"}, **room),
                    "others": NodeTypeConfig(name="others", labels={"zone": "b"}, **room),
                },
                max_num_nodes=10,
                disable_launch_config_check=True,
                gang_resource_requests=[autoscaler_pb2.GangResourceRequest(requests=[bundle])] * groups,
                cluster_resource_constraints=constraints,
            )
        )
        return {one.instance_type: one.count for one in decided.to_launch}

    assert added(3, []) == {"ours": 1}
    assert added(12, []) == {"ours": 2}
    assert added(0, [autoscaler_pb2.ClusterResourceConstraint(resource_requests=[together])]) == {}
