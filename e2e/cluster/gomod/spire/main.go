// Runs SPIRE's own server and agent, from their released Go module, as one program: two programs would be linked, and
// kept, twice.
package main

import (
	"fmt"
	"os"
	"strings"

	agent "github.com/spiffe/spire/cmd/spire-agent/cli"
	server "github.com/spiffe/spire/cmd/spire-server/cli"
	"github.com/spiffe/spire/pkg/common/entrypoint"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: spire server|agent COMMAND [FLAG...]")
		os.Exit(2)
	}
	part := os.Args[1]
	os.Args = append([]string{"spire-" + part}, os.Args[2:]...)
	switch part {
	case "server":
		os.Exit(entrypoint.NewEntryPoint(new(server.CLI).Run).Main())
	case "agent":
		os.Exit(entrypoint.NewEntryPoint(new(agent.CLI).Run).Main())
	default:
		fmt.Fprintf(os.Stderr, "spire: no part %q, only server and agent\n", strings.TrimPrefix(part, "spire-"))
		os.Exit(2)
	}
}
