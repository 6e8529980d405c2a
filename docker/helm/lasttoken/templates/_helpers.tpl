{{- define "lasttoken.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}{{- $name = printf "%s-%s" $name .Chart.Name -}}{{- end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "lasttoken.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: lasttoken
{{- end -}}

{{/* Call with (list $ "server"). */}}
{{- define "lasttoken.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: lasttoken
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Call with (list $ .Values.server.image). */}}
{{- define "lasttoken.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest | quote }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) | quote }}
{{- end -}}
{{- end -}}

{{- define "lasttoken.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "lasttoken.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "lasttoken.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "lasttoken.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Name of the GPU resource, empty on the CPU. */}}
{{- define "lasttoken.gpuResource" -}}
{{- $gpu := .Values.server.gpu -}}
{{- if eq $gpu.kind "whole" -}}nvidia.com/gpu
{{- else if eq $gpu.kind "mig" -}}nvidia.com/mig-{{ required "server.gpu.migProfile is needed for kind mig, such as 3g.40gb" $gpu.migProfile }}
{{- else if eq $gpu.kind "shared" -}}nvidia.com/gpu.shared
{{- end -}}
{{- end -}}

{{/* Call with (list $ resources): the resources with the GPUs among the limits. */}}
{{- define "lasttoken.gpuResources" -}}
{{- $root := index . 0 -}}
{{- $resources := deepCopy (index . 1) -}}
{{- $resource := include "lasttoken.gpuResource" $root -}}
{{- if $resource -}}
{{- $_ := set $resources "limits" (merge (dict $resource (int $root.Values.server.gpu.count)) (default (dict) $resources.limits)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Port of the store that models are fetched from: the endpoint's own, or its scheme's. */}}
{{- define "lasttoken.s3Port" -}}
{{- $endpoint := urlParse (default "https://s3.amazonaws.com" .Values.repository.s3.endpoint) -}}
{{- $port := regexFind ":[0-9]+$" $endpoint.host | trimPrefix ":" -}}
{{- default (ternary "80" "443" (eq $endpoint.scheme "http")) $port -}}
{{- end -}}

{{/* "true" unless server.tlsVerifyClients is false: also where values of an older chart are reused, which lack it. */}}
{{- define "lasttoken.verifiesClients" -}}
{{- if ne (toString .Values.server.tlsVerifyClients) "false" -}}true{{- end -}}
{{- end -}}

{{/* Annotations of the Ingress: those given, and nginx told that the gateway speaks TLS. */}}
{{- define "lasttoken.ingressAnnotations" -}}
{{- $g := .Values.gateway -}}
{{- $annotations := deepCopy (default (dict) $g.ingress.annotations) -}}
{{- $name := "nginx.ingress.kubernetes.io/backend-protocol" -}}
{{- if and $g.tlsSecret (eq $g.ingress.className "nginx") (not (hasKey $annotations $name)) -}}
{{- $_ := set $annotations $name "HTTPS" -}}
{{- end -}}
{{- with $annotations -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

{{/* Folder of an exported repository in the exporter's claim: all that a plan depends on. */}}
{{- define "lasttoken.exportKey" -}}
{{- $e := .Values.repository.exporter -}}
{{- $image := include "lasttoken.image" (list . $e.image) -}}
{{- $what := toJson (list $e.source $e.precision $e.runtime $e.extraArgs $e.gpuType $image .Values.model) -}}
{{- printf "%s-%s-%s-%s" .Values.model $e.precision (default "any-gpu" $e.gpuType | lower | replace " " "-") (sha256sum $what | trunc 12) -}}
{{- end -}}

{{- define "lasttoken.exporterClaim" -}}
{{- default (printf "%s-models" (include "lasttoken.fullname" .)) .Values.repository.exporter.claimName -}}
{{- end -}}
