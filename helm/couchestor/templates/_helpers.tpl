{{- define "couchestor.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 47 | trimSuffix "-" -}}
{{- end -}}

{{- define "couchestor.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 47 | trimSuffix "-" -}}
{{- else if contains (include "couchestor.name" .) .Release.Name -}}
{{- .Release.Name | trunc 47 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "couchestor.name" .) | trunc 47 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "couchestor.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change; call with (list $ "scorer"). */}}
{{- define "couchestor.selector" -}}
app.kubernetes.io/name: {{ include "couchestor.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "couchestor.labels" -}}
{{ include "couchestor.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/part-of: couchestor
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end -}}

{{- define "couchestor.port" -}}
{{- get (dict "scorer" 50051 "planner" 50052 "migrator" 50053) . -}}
{{- end -}}

{{/* Flags that the administrator chose, as arguments; the service's own win over those of all. A value goes through
     JSON so that a large number is not written as 1e+06. Not sprig's merge: it takes false and 0 for absent. */}}
{{- define "couchestor.flags" -}}
{{- $root := index . 0 -}}
{{- $chosen := dict -}}
{{- range $flags := list $root.Values.flags (index $root.Values (index . 1)).flags -}}
{{- range $name, $value := $flags -}}
{{- $_ := set $chosen $name $value -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := $chosen -}}
{{- if not (kindIs "invalid" $value) }}
- {{ printf "--%s=%s" $name (kindIs "string" $value | ternary $value (toJson $value)) | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the migrator is told of Mayastor, as arguments, one a line. */}}
{{- define "couchestor.mayastorArgs" -}}
{{- $mayastor := .Values.mayastor -}}
--mayastor-namespace={{ $mayastor.namespace }}
--mayastor-group={{ $mayastor.group }}
--backend={{ $mayastor.backend }}
{{- with $mayastor.rest.url }}
--mayastor-rest-url={{ . }}
{{- if $mayastor.rest.tokenSecret.name }}
--mayastor-token-file=/etc/couchestor/mayastor-token/{{ $mayastor.rest.tokenSecret.key }}
{{- end }}
{{- if or $mayastor.rest.ca.configMap $mayastor.rest.ca.secret }}
--mayastor-ca-file=/etc/couchestor/mayastor-ca/{{ $mayastor.rest.ca.key }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The files that those name. Whole volumes, no subPath: what is renewed in the cluster is renewed in the pod. */}}
{{- define "couchestor.mayastorVolumes" -}}
{{- $rest := .Values.mayastor.rest -}}
{{- if and $rest.url $rest.tokenSecret.name }}
- name: mayastor-token
  secret:
    secretName: {{ $rest.tokenSecret.name }}
    defaultMode: 0440
    items:
      - {key: {{ $rest.tokenSecret.key | quote }}, path: {{ $rest.tokenSecret.key | quote }}}
{{- end }}
{{- if and $rest.url $rest.ca.configMap }}
- name: mayastor-ca
  configMap:
    name: {{ $rest.ca.configMap }}
    items:
      - {key: {{ $rest.ca.key | quote }}, path: {{ $rest.ca.key | quote }}}
{{- else if and $rest.url $rest.ca.secret }}
- name: mayastor-ca
  secret:
    secretName: {{ $rest.ca.secret }}
    items:
      - {key: {{ $rest.ca.key | quote }}, path: {{ $rest.ca.key | quote }}}
{{- end }}
{{- end -}}

{{- define "couchestor.mayastorMounts" -}}
{{- $rest := .Values.mayastor.rest -}}
{{- if and $rest.url $rest.tokenSecret.name }}
- {name: mayastor-token, mountPath: /etc/couchestor/mayastor-token, readOnly: true}
{{- end }}
{{- if and $rest.url (or $rest.ca.configMap $rest.ca.secret) }}
- {name: mayastor-ca, mountPath: /etc/couchestor/mayastor-ca, readOnly: true}
{{- end }}
{{- end -}}

{{/* One service; call with (dict "root" $ "name" "scorer" "args" (list ...) "token" bool), and with
     "mounts" and "volumes", as YAML, for files of its own. */}}
{{- define "couchestor.deployment" -}}
{{- $values := index .root.Values .name -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "couchestor.fullname" .root }}-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "couchestor.labels" (list .root .name) | nindent 4 }}
spec:
  replicas: {{ $values.replicas }}
  revisionHistoryLimit: 3
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels:
      {{- include "couchestor.selector" (list .root .name) | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "couchestor.labels" (list .root .name) | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "couchestor.fullname" .root }}-{{ .name }}
      automountServiceAccountToken: {{ .token }}
      # Otherwise every Service of the namespace becomes environment variables, and a flag's twin might be among them.
      enableServiceLinks: false
      terminationGracePeriodSeconds: 30
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: {{ .name }}
          image: {{ include "couchestor.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command:
            - couchestor-{{ .name }}
          args:
            - --grpc-addr=:{{ include "couchestor.port" .name }}
            # Plain text beyond loopback has to be asked for. Here it is, behind the NetworkPolicies.
            - --insecure-bind
            {{- range .args }}
            - {{ . | quote }}
            {{- end }}
            {{- include "couchestor.flags" (list .root .name) | trim | nindent 12 }}
          {{- if .token }}
          env:
            - name: POD_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            - name: POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
          {{- end }}
          ports:
            - name: grpc
              containerPort: {{ include "couchestor.port" .name }}
            - name: metrics
              containerPort: 8080
            - name: health
              containerPort: 8081
          startupProbe:
            httpGet: {path: /livez, port: health}
            periodSeconds: 2
            failureThreshold: 30
          livenessProbe:
            httpGet: {path: /livez, port: health}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: {path: /readyz, port: health}
            periodSeconds: 5
            timeoutSeconds: 3
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          {{- if or $values.volumeMounts .mounts }}
          volumeMounts:
            {{- with .mounts }}
            {{- . | trim | nindent 12 }}
            {{- end }}
            {{- with $values.volumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- end }}
      {{- if or $values.volumes .volumes }}
      volumes:
        {{- with .volumes }}
        {{- . | trim | nindent 8 }}
        {{- end }}
        {{- with $values.volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- if gt (int $values.replicas) 1 }}
      # On different nodes where there are any: a node that goes must not take the standby with it.
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "couchestor.selector" (list .root .name) | nindent 14 }}
      {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}
