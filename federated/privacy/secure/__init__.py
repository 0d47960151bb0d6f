"""Secure aggregation: the server learns the sum of the devices' updates and no single one of them.

SecAgg+ of Bell et al., "Secure single-server aggregation with (poly)logarithmic overhead", CCS 2020, after Bonawitz et
al., CCS 2017, over Flower's message API (Flower's own runs on the legacy one only), in four exchanges a round:

    keys     each device makes two key pairs for this round and says their public halves
    shares   each splits its mask key and its self-mask's seed among its neighbours, encrypted for them
    masked   each trains and sends its update plus masks; between neighbours they cancel
    unmask   survivors give shares: of the seed for who survived, of the mask key for who did not, never of both

What is promised, and against whom: a server that follows the protocol but is curious, together with fewer devices than
the threshold, sees nothing but the sum of at least `threshold` updates. A server that lies about keys is not caught.
"""
