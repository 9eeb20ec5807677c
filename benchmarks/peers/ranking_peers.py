"""The peers of the ranking net, by the names that tables of results give them."""

from collections.abc import Mapping

from benchmarks.peers.ranking_distributions import cread, d2q
from benchmarks.peers.ranking_nets import factorization_machine, mmoe, net_2016
from benchmarks.peers.ranking_rows import Peer
from benchmarks.peers.ranking_trees import lambdarank, three_trees

PEERS: Mapping[str, Peer] = {
    "lightgbm": three_trees,
    "lightgbm_lambdarank": lambdarank,
    "factorization_machine": factorization_machine,
    "net_2016": net_2016,
    "d2q": d2q,
    "cread": cread,
    "mmoe": mmoe,
}
