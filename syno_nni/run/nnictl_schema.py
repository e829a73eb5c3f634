"""What NNI 3.0 takes in an experiment file, with types and ranges: the keys of its ``ExperimentConfig`` and of all its training
services. NNI reads the file anew, as YAML 1.1: what that reads otherwise than it is meant here is refused."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from syno_nni.schema import Ambiguous, Flag, Section, SourceFloat, SourceInt
from syno_nni.text import visible

from .wording import show

PLATFORMS = ('local', 'remote', 'openpai', 'aml', 'dlc', 'kubeflow', 'frameworkcontroller')
"""Those of NNI 3.0; `adl` it knows in files of an older form only."""


def _as_nni_reads(value: Any) -> Any:
    """Text, unless YAML 1.1 reads something else."""
    if isinstance(value, (Ambiguous, SourceInt, SourceFloat)):
        raise ValueError('should be text; put quotes around it')
    return value


def _exact(value: Any) -> Any:
    if isinstance(value, Ambiguous):
        raise ValueError(f'should be a whole number; {value.why}')
    if isinstance(value, SourceInt):
        if not re.fullmatch(r'[-+]?(0|[1-9][0-9_]*)', value.source):
            raise ValueError('should be a whole number in plain digits')
        return int(value)
    return value


def _duration(value: Any) -> Any:
    wanted = "should be a duration such as 90, '90s', '10m', '1h' or '1d'"
    if isinstance(value, Ambiguous):
        raise ValueError(f'{wanted}; {value.why}')
    if isinstance(value, str) and re.fullmatch(r'\d{1,9}(\.\d{1,9})?\s*[smhd]', value, re.ASCII | re.IGNORECASE):
        return value if float(value[:-1]) > 0 else 0
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    raise ValueError(wanted)


def _printable(text: str) -> str:
    if visible(text) != text:
        raise ValueError('should be text without control characters')
    return text


def _address(text: str) -> str:
    if not re.fullmatch(r'[\w.:%-]{1,255}|\[[\w.:%]{1,80}\]', text):
        raise ValueError('should be an address or the name of a machine')
    return text


def _memory(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r'\d{1,9}(\.\d{1,9})?\s*([tgmk]?b)', value, re.ASCII | re.IGNORECASE):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return _exact(value)
    raise ValueError("should be a size in memory such as 512 (megabytes), '512 MB' or '8GB'")


def _no_repetition(indices: Any) -> Any:
    given = indices.split(',') if isinstance(indices, str) else indices
    if isinstance(given, list) and len({int(index) for index in given}) < len(given):
        raise ValueError('should name every GPU once')
    return indices


_Text = Annotated[str, BeforeValidator(_as_nni_reads), Field(strict=True, min_length=1, max_length=10_000),
                  AfterValidator(_printable)]
_Whole = Annotated[int, BeforeValidator(_exact), Field(strict=True, ge=0, lt=2 ** 31)]
_Count = Annotated[int, BeforeValidator(_exact), Field(strict=True, ge=1, lt=2 ** 31)]
_Exact = Annotated[int, BeforeValidator(_exact), Field(strict=True, ge=-1, lt=2 ** 31)]
_Duration = Annotated[Annotated[int, Field(strict=True, ge=1, lt=2 ** 40)] | str, BeforeValidator(_duration)]
_Address = Annotated[_Text, AfterValidator(_address)]
_Memory = Annotated[Annotated[int, Field(strict=True, ge=1, lt=2 ** 40)] | str, BeforeValidator(_memory)]
_Index = Annotated[_Whole, Field(le=9999)]
_Indices = Annotated[Annotated[str, BeforeValidator(_as_nni_reads), Field(strict=True, pattern=r'^\d{1,4}(,\d{1,4})*$',
                                                                       max_length=1000)] | _Index
                     | Annotated[list[_Index], Field(max_length=1000)], AfterValidator(_no_repetition)]


class _Algorithm(Section):
    name: _Text | None = None
    class_name: _Text | None = None
    code_directory: _Text | None = None
    class_args: dict[str, Any] | None = None

    @model_validator(mode='after')
    def _one_of_two(self) -> _Algorithm:
        if (self.name is None) == (self.class_name is None):
            raise ValueError('wants either name or className')
        return self


class Service(Section):
    """What every training service has."""
    platform: Literal[PLATFORMS]  # type: ignore[valid-type]
    trial_command: _Text | None = None
    trial_code_directory: _Text | None = None
    trial_gpu_number: _Whole | None = None
    nni_manager_ip: _Address | None = None
    debug: Flag | None = None


class AnyService(Service):
    """To see which one it is."""
    model_config = ConfigDict(extra='allow')


class _Local(Service):
    use_active_gpu: Flag | None = None
    max_trial_number_per_gpu: _Count = 1
    gpu_indices: _Indices | None = None
    reuse_mode: Flag = False


class _RemoteMachine(Section):
    host: _Address
    port: Annotated[_Count, Field(le=65535)] = 22
    user: _Text
    password: _Text | None = None
    ssh_key_file: _Text | None = '~/.ssh/id_rsa'
    ssh_passphrase: _Text | None = None
    use_active_gpu: Flag = False
    max_trial_number_per_gpu: _Count = 1
    gpu_indices: _Indices | None = None
    python_path: _Text | None = None


class _Remote(Service):
    machine_list: Annotated[list[_RemoteMachine], Field(min_length=1, max_length=1000)]
    reuse_mode: Flag = False


class _OpenPai(Service):
    host: _Text
    username: _Text
    token: _Text
    trial_cpu_number: _Count
    trial_memory_size: _Memory
    storage_config_name: _Text
    docker_image: _Text = 'msranni/nni:latest'
    virtual_cluster: _Text | None
    local_storage_mount_point: _Text
    container_storage_mount_point: _Text
    reuse_mode: Flag = True
    openpai_config: dict[str, Any] | None = None
    openpai_config_file: _Text | None = None


class _Aml(Service):
    subscription_id: _Text
    resource_group: _Text
    workspace_name: _Text
    compute_target: _Text
    docker_image: _Text = 'msranni/nni:latest'
    max_trial_number_per_gpu: _Count = 1


class _Dlc(Service):
    type: _Text = 'Worker'
    image: _Text
    job_type: _Text = 'TFJob'
    pod_count: _Count
    ecs_spec: _Text
    region: _Text
    workspace_id: _Text
    nas_data_source_id: _Text
    oss_data_source_id: _Text | None = None
    access_key_id: _Text
    access_key_secret: _Text
    local_storage_mount_point: _Text
    container_storage_mount_point: _Text


class _Storage(Section):
    """Of Kubernetes."""
    storage_type: Literal['nfs', 'azureStorage']
    storage: Literal['nfs', 'azureStorage'] | None = None
    server: _Text | None = None
    path: _Text | None = None
    azure_account: _Text | None = None
    azure_share: _Text | None = None
    key_vault_name: _Text | None = None
    key_vault_key: _Text | None = None

    @model_validator(mode='after')
    def _whole(self) -> _Storage:
        nfs, azure = ('server', 'path'), ('azure_account', 'azure_share', 'key_vault_name', 'key_vault_key')
        _all_and_none_of(self, self.storage_type, *((nfs, azure) if self.storage_type == 'nfs' else (azure, nfs)))
        return self


def _all_and_none_of(section: Section, sort: str, wanted: Iterable[str], others: Iterable[str]) -> None:
    for field in wanted:
        if getattr(section, field) is None:
            raise ValueError(f'{sort} wants {to_camel(field)}')
    for field in others:
        if getattr(section, field) is not None:
            raise ValueError(f'{sort} has no {to_camel(field)}')


class _Role(Section):
    docker_image: _Text = 'msranni/nni:latest'
    command: _Text
    cpu_number: _Count
    memory_size: _Memory


class _KubeflowRole(_Role):
    replicas: _Count
    gpu_number: _Whole | None = 0
    code_directory: _Text


class _Kubeflow(Service):
    operator: Literal['tf-operator', 'pytorch-operator']
    api_version: _Text
    storage: _Storage
    worker: _KubeflowRole | None = None
    ps: _KubeflowRole | None = None
    master: _KubeflowRole | None = None
    reuse_mode: Flag | None = True
    namespace: _Text = 'default'


class _Completion(Section):
    min_failed_task_count: _Exact
    min_succeed_task_count: _Exact


class _FrameworkRole(_Role):
    name: _Text
    task_number: _Count
    gpu_number: _Whole
    framework_attempt_completion_policy: _Completion


class _FrameworkController(Service):
    storage: _Storage
    service_account_name: _Text | None
    task_roles: Annotated[list[_FrameworkRole], Field(min_length=1, max_length=1000)]
    reuse_mode: Flag | None = True
    namespace: _Text = 'default'


class _SharedStorage(Section):
    storage_type: Literal['NFS', 'AzureBlob']
    local_mount_point: _Text
    remote_mount_point: _Text
    local_mounted: Literal['usermount', 'nnimount', 'nomount']
    storage_account_name: _Text | None = None
    storage_account_key: _Text | None = None
    container_name: _Text | None = None
    nfs_server: _Text | None = None
    exported_directory: _Text | None = None

    @model_validator(mode='after')
    def _whole(self) -> _SharedStorage:
        nfs, azure = ('nfs_server', 'exported_directory'), ('storage_account_name', 'container_name')
        account = ('storage_account_key',)
        _all_and_none_of(self, self.storage_type, *((nfs, (*azure, *account)) if self.storage_type == 'NFS' else (azure, nfs)))
        return self


def check_space(space: Mapping[str, Any]) -> None:
    """Raise ValueError unless this is a search space of choices."""
    for name, choice in space.items():
        if (not isinstance(choice, Mapping) or set(choice) != {'_type', '_value'} or choice['_type'] != 'choice'
                or not isinstance(choice['_value'], list) or not choice['_value']):
            raise ValueError(f'{show(name)} should be {{_type: choice, _value: [...]}}')


class File(Section):
    """NNI's ExperimentConfig."""
    experiment_name: _Text | None = None
    experiment_type: Literal['hpo'] = 'hpo'
    search_space_file: _Text | None = None
    search_space: dict[str, Any] | None = None
    trial_command: _Text
    trial_code_directory: _Text = '.'
    trial_concurrency: _Count
    trial_gpu_number: _Whole | None = None
    max_experiment_duration: _Duration | None = None
    max_trial_number: _Count
    max_trial_duration: _Duration | None = None
    nni_manager_ip: _Address | None = None
    use_annotation: Flag = False
    debug: Flag = False
    log_level: Literal['fatal', 'error', 'warning', 'info', 'debug', 'trace'] | None = None
    experiment_working_directory: _Text = '~/nni-experiments'
    tuner_gpu_indices: _Indices | None = None
    tuner: _Algorithm
    assessor: _Algorithm | None = None
    advisor: None = None
    training_service: dict[str, Any]
    shared_storage: _SharedStorage | None = None

    @field_validator('search_space')
    @classmethod
    def _choices(cls, space: dict[str, Any] | None) -> dict[str, Any] | None:
        check_space(space or {})
        return space

    @model_validator(mode='after')
    def _no_annotation(self) -> File:
        if self.use_annotation:
            raise ValueError('useAnnotation: there is no code to annotate; leave it out')
        return self


SERVICES: dict[str, type[Service]] = {
    'local': _Local, 'remote': _Remote, 'openpai': _OpenPai, 'aml': _Aml, 'dlc': _Dlc, 'kubeflow': _Kubeflow,
    'frameworkcontroller': _FrameworkController}
