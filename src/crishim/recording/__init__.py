"""Records of a node's conversation: the CRI calls between a kubelet and a runtime, as lines of JSON.

`lines` converts calls to lines and removes secrets; `recorder` is a proxy that writes them; `replay` plays them against a
runtime and reports what differs.
"""
