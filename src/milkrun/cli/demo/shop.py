"""A simulated grocery shop: what its app and its services would report, the same for the same seed.

Customers look at groceries, fill baskets and check out (the app); orders are picked and delivered (the services).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

GROCERIES = {
    "bananas": 1.49,
    "whole milk": 1.19,
    "rolls": 0.45,
    "butter": 2.35,
    "root vegetables": 2.10,
    "yoghurt": 0.99,
    "tomatoes": 2.79,
    "coffee": 5.49,
    "brown bread": 2.25,
    "apples": 2.59,
    "cheese": 4.10,
    "pasta": 1.29,
    "eggs": 2.99,
    "chocolate": 1.79,
    "orange juice": 2.49,
    "rice": 1.89,
}
CITIES = ("Amsterdam", "Utrecht", "Rotterdam", "Almere", "Leiden")

Event = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What happens at one moment: the app's events and the services'."""

    app: list[Event]
    services: list[Event]


class Shop:
    """Makes steps for ever. Event ids are unique within a seed; times go on from `start`."""

    def __init__(self, seed: int, start: datetime | None = None) -> None:
        self._rng = random.Random(seed)
        self._seed = seed
        self._now = start or datetime.now(UTC)
        self._numbers = iter(range(1, 1 << 62))
        self._orders = iter(range(1001, 1 << 62))

    def steps(self) -> Iterator[Step]:
        """One visit of a customer after the other, with what the services make of the orders."""
        waiting: list[Event] = []
        while True:
            app = list(self._visit(waiting))
            services = [self._after(order) for order in waiting[:-3]]
            del waiting[:-3]
            yield Step(app, services)

    def _visit(self, waiting: list[Event]) -> Iterator[Event]:
        customer = {"id": f"c{self._rng.randint(1, 400)}", "city": self._rng.choice(CITIES)}
        basket: list[dict[str, Any]] = []
        for item in self._rng.sample(sorted(GROCERIES), self._rng.randint(2, 6)):
            yield self._event("viewed", customer=customer, item={"name": item, "price": GROCERIES[item]})
            if self._rng.random() < 0.6:
                basket.append({"name": item, "price": GROCERIES[item], "quantity": self._rng.randint(1, 4)})
        if basket:
            total = round(sum(line["price"] * line["quantity"] for line in basket), 2)
            order = {"id": f"o{next(self._orders)}", "total": total, "lines": basket}
            event = self._event("ordered", customer=customer, order=order)
            waiting.append(event)
            yield event

    def _after(self, ordered: Event) -> Event:
        order = {"id": ordered["order"]["id"], "total": ordered["order"]["total"]}
        minutes = self._rng.randint(25, 90)
        return self._event("delivered", order=order, city=ordered["customer"]["city"], minutes=minutes)

    def _event(self, type: str, **fields: Any) -> Event:
        self._now += timedelta(milliseconds=self._rng.randint(1, 40))
        number = next(self._numbers)
        return {"id": f"{self._seed:x}-{number}", "type": type, "at": self._now.isoformat(), **fields}
