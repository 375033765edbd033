// Runs cert-manager's own controllers and admission webhook, from its released Go module, in one process.
//
// The released commands are nested modules of the same repository, which no module proxy serves; everything they
// run is in the root module. This module's path lies below cert-manager's, so that Go lets it import
// internal/webhook. Left out: the ACME, Vault and Venafi issuers, and the cainjector (whoever starts this program
// writes the webhook's CA bundle).
package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/cert-manager/cert-manager/internal/apis/config/shared"
	config "github.com/cert-manager/cert-manager/internal/apis/config/webhook"
	"github.com/cert-manager/cert-manager/internal/webhook"
	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	"github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	"github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
)

var controllers = []string{
	issuers.ControllerName, clusterissuers.ControllerName,
	trigger.ControllerName, keymanager.ControllerName, requestmanager.ControllerName, issuing.ControllerName,
	readiness.ControllerName, revisionmanager.ControllerName,
	approver.ControllerName, ca.CRControllerName, selfsigned.CRControllerName,
}

func main() {
	flags := flag.NewFlagSet("cert-manager", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig file")
	namespace := flags.String("namespace", "cert-manager", "namespace of ClusterIssuers' Secrets")
	port := flags.Int("webhook-port", 10350, "port of the admission webhook")
	health := flags.Int("health-port", 10351, "port of the webhook's /livez and /healthz")
	cert := flags.String("webhook-cert", "", "the webhook's certificate, a PEM file")
	key := flags.String("webhook-key", "", "its private key, a PEM file")
	_ = flags.Parse(os.Args[1:])

	log := logf.Log
	ctx, stop := signal.NotifyContext(logf.NewContext(context.Background(), log), os.Interrupt, syscall.SIGTERM)
	defer stop()
	must := func(err error) {
		if err != nil && ctx.Err() == nil {
			log.Error(err, "stopping")
			os.Exit(1)
		}
	}

	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		Kubeconfig:    *kubeconfig,
		IssuerOptions: controller.IssuerOptions{ClusterResourceNamespace: *namespace},
		CertificateOptions: controller.CertificateOptions{
			CertificateRequestMinimumBackoffDuration: time.Hour,
			CertificateRequestMaximumBackoffDuration: 32 * time.Hour,
		},
		IngressShimOptions: controller.IngressShimOptions{GatewayAPIExtraProtocols: sets.New[string]()},
	})
	must(err)
	running := make([]controller.Interface, 0, len(controllers))
	for _, name := range controllers {
		made, err := controller.Known()[name](factory)
		must(err)
		running = append(running, made)
	}
	informers, err := factory.Build()
	must(err)
	for _, each := range running {
		go func() { must(each.Run(5, ctx)) }()
	}
	informers.SharedInformerFactory.Start(ctx.Done())
	informers.KubeSharedInformerFactory.Start(ctx.Done())
	log.Info("controllers started", "count", len(running))

	server, err := webhook.NewCertManagerWebhookServer(log, config.WebhookConfiguration{
		KubeConfig: *kubeconfig, SecurePort: int32(*port), HealthzPort: int32(*health), MetricsListenAddress: "0",
		TLSConfig: shared.TLSConfig{Filesystem: shared.FilesystemServingConfig{CertFile: *cert, KeyFile: *key}},
	})
	must(err)
	must(server.Run(ctx))
}
