"""The one table of other spellings, and of keys that other trainers have and that have no effect here.

Keys of transformers.TrainingArguments, trl.SFTConfig and ModelConfig, peft.LoraConfig, BitsAndBytesConfig, Unsloth's
from_pretrained and get_peft_model, axolotl and LLaMA-Factory. A test holds it against the installed libraries.
"""

from __future__ import annotations

from functools import cache


def _each(table: dict[str, str]) -> dict[str, str]:
    return {spelling: meaning for meaning, spellings in table.items() for spelling in spellings.split()}


# same meaning, other name; what also changes the value is in translate.py
SPELLINGS = _each(
    {
        "model": "base_model model_name_or_path model_name model_id pretrained_model_name_or_path "
        "base_model_name_or_path",
        "hub_revision": "revision model_revision revision_of_model",
        "data": "dataset datasets train_dataset train_data train_file data_path data_file data_files dataset_name "
        "dataset_path dataset_id",
        "eval_data": "eval_dataset test_datasets test_dataset val_dataset validation_dataset validation_data val_data "
        "test_data eval_file validation_file val_file test_file",
        "system": "system_prompt default_system default_system_message system_message",
        "format": "formatting_func",
        "max_length": "max_seq_length max_seq_len sequence_len seq_length cutoff_len model_max_length",
        "packing": "sample_packing",
        "max_train_samples": "max_samples num_train_samples",
        "max_memory": "gpu_memory_limit",
        "precision": "mixed_precision",
        "gradient_checkpointing": "activation_checkpointing use_gradient_checkpointing",
        "r": "lora_r lora_rank rank",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
        "target_modules": "lora_target_modules lora_target",
        "modules_to_save": "lora_modules_to_save additional_target",
        "use_rslora": "peft_use_rslora",
        "use_dora": "peft_use_dora",
        "beta": "dpo_beta pref_beta rl_beta",
        "loss_type": "dpo_loss_type",
        "label_smoothing": "dpo_label_smoothing",
        "desirable_weight": "kto_desirable_weight kto_chosen_weight",
        "undesirable_weight": "kto_undesirable_weight kto_rejected_weight",
        "num_train_epochs": "epochs num_epochs n_epochs epoch",
        "effective_batch_size": "total_batch_size global_batch_size train_batch_size",
        "per_device_train_batch_size": "micro_batch_size per_device_batch_size per_gpu_train_batch_size",
        "gradient_accumulation_steps": "accumulation grad_accum gradient_accumulation accumulation_steps",
        "learning_rate": "lr",
        "lr_scheduler_type": "lr_scheduler scheduler",
        "max_grad_norm": "grad_clip gradient_clipping clip_grad_norm",
        "optim": "optimizer",
        "adam_epsilon": "eps epsilon adam_eps",
        "seed": "random_state random_seed",
        "early_stopping": "early_stopping_patience early_stopping_steps",
        "eval_strategy": "evaluation_strategy",
        "dtype": "torch_dtype",
        "dataset_train_split": "train_split",
    }
)

# What translate.py reads together; a key here is known although it is no key of the recipe.
TRANSLATED = frozenset(
    """
    gradient_accumulation_steps batch_size
    bf16 fp16 bfloat16 float16 float32 pure_bf16 dtype bnb_4bit_compute_dtype
    load_in_4bit load_in_8bit load_in_16bit full_finetuning adapter finetuning_type quantization_bit use_peft
    stage rl pref_loss reward_model process_reward_model
    warmup_ratio eval_strategy eval_steps evals_per_epoch do_eval save_strategy save_steps saves_per_epoch
    dataset_train_split dataset_test_split dataset_config dataset_text_field
    completion_only_loss assistant_only_loss train_on_inputs train_on_prompt
    lora_target_linear disable_gradient_checkpointing do_train
    """.split()
)

# What search.py takes: which values are tried, and how; no part of one training's recipe.
TRIALS = frozenset("trials trial_steps trial_samples best_by".split())

# A call or a mapping that only holds other keys: what is in it is read as if it stood outside.
WRAPPERS = frozenset(
    """
    args training_args training_arguments sft_config config peft_config lora_config lora peft quantization_config
    bnb_config bnb_config_kwargs model_init_kwargs model_kwargs from_pretrained_kwargs
    """.split()
)

SECRETS = frozenset(
    """
    token hub_token hf_token hf_hub_token use_auth_token hf_use_auth_token access_token api_key ms_hub_token
    om_hub_token comet_api_key swanlab_api_key swanlab_lark_secret wandb_api_key wandb_key
    """.split()
)

# reason: keys. A reason completes "no effect here: KEYS (...)".
NO_EFFECT = _each(
    {
        "a run has a folder of its own: --root, and the name on the %%finetune line": """
            output_dir overwrite_output_dir run_name project logging_dir temporary_location dataset_prepared_path
            tokenized_path overwrite_cache adapter_folder lora_model_dir adapter_name_or_path
            create_new_adapter axolotl_config_path""",
        "an unfinished run goes on from its newest whole checkpoint, and %checkpoint import takes another's": """
            resume_from_checkpoint auto_resume_from_checkpoints restore_callback_states_from_checkpoint""",
        "every step is in the run's events.jsonl and on the panel": """
            logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_on_each_node log_level
            log_level_replica disable_tqdm include_num_input_tokens_seen include_tokens_per_second include_tkps
            include_effective_tokens_per_second plot_loss print_param_status skip_memory_metrics verbose
            disable_log_stats debug strict profiler_steps profiler_steps_start loss_watchdog_threshold
            loss_watchdog_patience enable_torch_profiler profiler_output_dir profiler_wait_steps profiler_warmup_steps
            profiler_active_steps profiler_repeat profiler_record_shapes profiler_profile_memory profiler_with_stack
            profile_modules""",
        "name trackers with report_to": """
            trackio_space_id trackio_bucket_id trackio_static_space_id use_tensorboard use_wandb wandb_project
            wandb_entity wandb_watch wandb_name wandb_log_model wandb_run_id wandb_mode use_mlflow mlflow_tracking_uri
            mlflow_experiment_name mlflow_run_name hf_mlflow_log_artifacts use_comet comet_workspace
            comet_project_name comet_experiment_key comet_mode comet_online comet_experiment_config use_trackio
            trackio_project_name trackio_run_name use_otel_metrics otel_metrics_host otel_metrics_port use_swanlab
            swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_logdir swanlab_lark_webhook_url""",
        "perplexity and token accuracy are measured at each evaluation, in batches that fit": """
            per_device_eval_batch_size eval_batch_size eval_delay eval_on_start eval_packing eval_sample_packing
            eval_sequence_len prediction_loss_only eval_do_concat_batches eval_use_gather_object
            eval_accumulation_steps include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval do_predict
            do_causal_lm_eval eval_causal_lm_metrics do_bench_eval bench_dataset bench_split compute_metrics
            preprocess_logits_for_metrics compute_accuracy eval_on_each_dataset eval_num_beams eval_table_size
            eval_max_new_tokens""",
        "nothing is cut off the training rows: name evaluation rows with eval_data": """
            val_size val_set_size validation_split test_size""",
        "the last weights are the result": """
            load_best_model_at_end metric_for_best_model greater_is_better""",
        "a checkpoint holds all that a run needs to continue": """
            save_only_model save_on_each_node save_first_step save_safetensors enable_jit_checkpoint
            ignore_data_skip dynamic_checkpoint""",
        "nothing is uploaded": """
            push_to_hub hub_private_repo hub_model_id hub_strategy hub_always_push push_dataset_to_hub
            export_hub_model_id""",
        "attention, kernels and the loss path are chosen for the device": """
            attn_implementation flash_attn flash_attention xformers_attention sdp_attention flex_attention
            flex_attn_compile_kwargs sage_attention eager_attention flash_optimum flash_attn_cross_entropy
            flash_attn_fuse_mlp flash_attn_rms_norm s2_attention shift_attn large_head_attention flash_attn_d512
            sdpa_varlen fused_attn_kernel gemma4_hybrid_attn_impl experts_implementation use_liger_kernel
            liger_kernel_config enable_liger_kernel use_kernels use_unsloth use_unsloth_gc use_v1_kernels torch_compile
            torch_compile_backend torch_compile_mode torch_compile_options deepcompile tf32 chunked_cross_entropy
            chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards tiled_mlp_use_original_mlp
            unsloth_tiled_mlp lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel use_cache
            use_kv_cache block_diag_attn supports_sdpa fullgraph unsloth_force_compile""",
        "checkpointing is non-reentrant, and offloads nothing": """
            gradient_checkpointing_kwargs activation_checkpointing_kwargs activation_offloading layer_offloading
            selective_checkpointing use_reentrant_gc torch_empty_cache_steps gc_steps gc_collect_steps lora_on_cpu
            offload_folder offload_embedding low_cpu_mem_usage experimental_skip_move_to_device""",
        "rows are packed or sorted by length inside a step, never across steps": """
            packing_strategy padding_free pad_to_multiple_of pad_to_sequence_len group_by_length length_column_name
            train_sampling_strategy neat_packing sample_packing_group_size sample_packing_bin_size
            sample_packing_sequentially sample_packing_mp_start_method sample_packing_eff_est multipack_real_batches
            batch_flattening curriculum_sampling max_packed_sequence_len pretrain_multipack_buffer_size
            pretrain_multipack_attn pretraining_sample_concatenation streaming_multipack_buffer_size
            heads_k_stride total_num_tokens total_supervised_tokens dataloader_drop_last truncation_mode
            excess_length_strategy min_sample_len""",
        "the order of the rows is a function of seed and epoch": """
            data_seed shuffle_dataset disable_shuffling shuffle_merged_datasets shuffle_before_merging_datasets
            full_determinism preprocess_shards""",
        "rows are read once, streaming, by the worker": """
            dataset_kwargs dataset_num_proc dataset_processes dataset_streaming dataset_dir dataset_shard_num
            dataset_shard_idx dataset_keep_in_memory dataset_exact_deduplication skip_prepare_dataset
            num_dataset_shards_to_save streaming buffer_size mix_strategy interleave_probs preprocessing_batch_size
            preprocessing_num_workers preprocess_iterable is_preprocess media_dir data_shared_file_system
            dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
            dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names data_collator
            num_workers text_column packing_num_proc""",
        "the model's own tokenizer and chat template are used; prompt_template replaces the template": """
            tokenizer processing_class tokenizer_name tokenizer_name_or_path tokenizer_config tokenizer_type
            tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common tokenizer_save_jinja_files
            tokenizer_revision use_fast_tokenizer fix_tokenizer chat_template chat_template_path chat_template_jinja
            chat_template_kwargs template tool_format enable_thinking preserve_thinking eos_token pad_token bos_token
            special_tokens tokens added_tokens_overrides eot_tokens add_tokens add_special_tokens
            new_special_tokens_config init_special_tokens split_special_tokens resize_vocab resize_model_vocab
            resize_token_embeddings_to_32x mean_resizing_embeddings shrink_embeddings fix_untrained_tokens
            trainable_token_indices processor_type processor_kwargs skip_special_tokens mask_history""",
        "the loss is cross-entropy over the trained tokens": """
            label_smoothing_factor average_tokens_across_devices compute_loss_func router_aux_loss_coef
            moe_aux_loss_coef ignore_pad_token_for_loss use_dft_loss use_asft_loss asft_alpha use_eaft_loss use_eaft
            eaft_alpha eaft_k scaling_softmax scaling_softmax_factor scaling_softmax_bias""",
        "no noise is added to the embeddings": "neftune_noise_alpha noisy_embedding_alpha",
        "the optimizer takes its learning rate, betas, epsilon and weight decay only": """
            optim_args optim_target_modules lr_scheduler_kwargs lr_quadratic_warmup cosine_min_lr_ratio
            cosine_constant_lr_ratio lr_div_factor lr_groups embedding_lr embedding_lr_scale adam_beta3 adam_epsilon2
            loraplus_lr_ratio loraplus_lr_embedding torchdistx_path optimizers optimizer_cls_and_kwargs
            jagged_restart_steps jagged_restart_warmup_steps jagged_restart_anneal_steps dion_lr dion_momentum
            dion_rank_fraction dion_rank_multiple_of use_galore galore_target galore_rank galore_update_interval
            galore_scale galore_proj_type galore_layerwise use_apollo apollo_target apollo_rank
            apollo_update_interval apollo_scale apollo_proj apollo_proj_type apollo_scale_type apollo_layerwise
            apollo_scale_front use_badam badam_mode badam_start_block badam_switch_mode badam_switch_interval
            badam_update_ratio badam_mask_mode badam_verbose use_adam_mini use_muon qgalore_rank
            qgalore_update_proj_gap qgalore_scale qgalore_proj_type qgalore_proj_quant qgalore_proj_bits
            qgalore_proj_group_size qgalore_cos_threshold qgalore_gamma_proj qgalore_queue_size""",
        "an out-of-memory step is retried in smaller micro-batches": "auto_find_batch_size",
        "the worker takes the device that is there": """
            use_cpu no_cuda device device_map quantization_device_map local_rank world_size ddp
            ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
            fsdp fsdp_config fsdp_version fsdp_final_state_dict_type fsdp_transformer_layer_cls_to_wrap deepspeed
            accelerator_config parallelism_config dp_shard_size dp_replicate_size sequence_parallel_degree
            context_parallel_size ring_attn_func tensor_parallel_size use_ray ray_run_name ray_num_workers
            ray_init_kwargs resources_per_worker master_addr master_port qlora_sharded_model_loading use_mca
            use_megatron_bridge megatron_bridge_args use_hyper_parallel hyper_parallel_args hyper_parallel_cp_size
            fp8 fp8_backend fp8_enable_fsdp_float8_all_gather load_in_fp8 float32_mixed_precision fp32_norms
            fp32_norm_classes use_kt kt_config kt_cpu_activation kt_weight_path kt_non_expert_weight_path
            kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num kt_lora_expert_intermediate_size""",
        "4-bit is NF4 with double quantisation, in the precision of the recipe": """
            bnb_4bit_quant_type bnb_4bit_use_double_quant use_bnb_nested_quant bnb_4bit_quant_storage
            llm_int8_threshold llm_int8_skip_modules llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight
            quantization_method quantization_type double_quantization quant_method model_quantization_config
            model_quantization_config_kwargs gptq quantize_moe_experts quantization qat qat_scheme compute_dtype
            embeddings_skip_upcast upcast_layernorm upcast_lmhead_output peft_autocast_adapter_dtype
            autocast_adapter_dtype""",
        "LoRA is plain: A random, B zero, the same rank everywhere, no bias": """
            task_type peft_type auto_mapping peft_version inference_mode exclude_modules fan_in_fan_out
            lora_fan_in_fan_out bias lora_bias init_lora_weights peft_init_lora_weights layers_to_transform
            peft_layers_to_transform layers_pattern peft_layers_pattern finetune_last_n_layers rank_pattern
            alpha_pattern lora_rank_pattern lora_alpha_pattern megatron_config megatron_core loftq_config eva_config
            corda_config lora_ga_config velora_config alora_invocation_tokens use_qalora qalora_group_size
            monteclora_config layer_replication peft_layer_replication runtime_config target_parameters
            lora_target_parameters use_bdlora arrow_config kasa_config ensure_weight_tying peft_ensure_weight_tying
            peft_trainable_token_indices lora_task_type max_lora_rank pissa_init pissa_iter pissa_convert relora
            relora_prune_ratio relora_prune_method relora_cpu_offload finetune_vision_layers
            finetune_language_layers finetune_attention_modules finetune_mlp_modules finetune_audio_layers
            freeze_trainable_layers freeze_trainable_modules freeze_extra_modules freeze_vision_tower
            freeze_multi_modal_projector freeze_language_model freeze_mm_modules unfrozen_parameters use_llama_pro
            module_dropout oft_rank oft_block_size oft_target lisa_n_layers lisa_step_interval lisa_layers_attribute
            use_onebitllms llama4_linearized_experts""",
        "the model is loaded as its own config says": """
            model_type type_of_model model_config model_patcher base_model_config cls_model_config
            overrides_of_model_config overrides_of_model_kwargs rope_scaling cache_dir is_falcon_derived_model
            is_llama_derived_model is_mistral_derived_model is_qwen_derived_model num_labels reinit_weights
            train_from_scratch mixture_of_depths use_exact_model_name auto_model auto_config model_types text_only
            trainer_cls plugins return_logits ignore_bias_buffers image_size image_resize_algorithm role_boundaries
            image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels
            video_min_pixels video_fps video_maxlen use_audio_in_video audio_sampling_rate whisper_language
            whisper_task use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks""",
        "only training happens in this cell": """
            fast_inference gpu_memory_utilization float8_kv_cache unsloth_vllm_standby infer_backend infer_dtype
            do_sample temperature top_p top_k num_beams max_new_tokens repetition_penalty length_penalty
            generate_samples num_generation_samples generation_max_new_tokens generation_temperature
            generation_top_p generation_top_k generation_prompt_ratio generation_do_sample predict_with_generate
            vllm vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config sglang_maxlen
            sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend export_dir export_size export_device
            export_quantization_bit export_quantization_dataset export_quantization_nsamples
            export_quantization_maxlen export_legacy_format merge_lora merge_method gradio_title gradio_share
            gradio_server_name gradio_server_port gradio_max_new_tokens gradio_temperature callbacks""",
        "a comparison is TRL's own, with one loss and the untouched base model as its reference": """
            trl ebft center_rewards_coefficient dpo_use_weighting use_weighting precompute_ref_log_probs
            precompute_ref_batch_size dpo_use_liger_kernel dpo_loss_weights loss_weights discopop_tau
            f_divergence_type f_alpha_divergence_coef sync_ref_model ref_model_mixup_alpha ref_model_sync_steps
            dpo_use_logits_to_keep dpo_generate_during_eval generate_during_eval dpo_norm_loss rpo_alpha orpo_alpha
            simpo_gamma cpo_alpha pref_ftx pref_bco_weight disable_dropout is_encoder_decoder ppo_buffer_size
            ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards ref_model ref_model_adapters
            ref_model_quantization_bit reward_model_adapters reward_model_quantization_bit reward_model_type ld_alpha
            pretraining_dataset""",
        "max_length holds for prompt and response together, and nothing is lost to padding": """
            max_prompt_length max_prompt_len max_completion_length padding_value""",
    }
)


# Values of other trainers' keys that go by another name here.
OPTIMIZER_NAMES = {
    "adamw": "adamw_torch_fused",
    "adamw_hf": "adamw_torch",
    "adamw_bnb_8bit": "adamw_8bit",
    "adamw8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_bnb_8bit": "paged_adamw_8bit",
}


@cache
def known_keys() -> frozenset[str]:
    """Every key that a cell may hold without an error."""
    from colab_magics.recipe.fields import Recipe

    return frozenset(Recipe.KEYS) | SPELLINGS.keys() | TRANSLATED | TRIALS | WRAPPERS | SECRETS | NO_EFFECT.keys()


def canonical(key: str) -> str:
    """The key that `key` is another spelling of, or itself."""
    return SPELLINGS.get(key, key)
