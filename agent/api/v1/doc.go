// Package v1 is the contract between a shim and the agent of a container's network namespace: the ttrpc service
// forefend.agent.v1.Agent, whose bodies are these types as JSON inside google.protobuf.BytesValue, as
// runtime/orchestrator/api speaks.
//
// The shim calls, the agent answers; what happens in the container reaches the shim by Events, a call that waits. All
// that an agent says is a claim (agent/doc.go): types here have no way to ask for something that loosens.
//
// Within v1 fields may be added. An end that needs one says so in its Oldest.
package v1
